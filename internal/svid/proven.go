package svid

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
)

// maxProven bounds the intermediates that are remembered: only what an authority has signed, or one below it, gets
// there.
const maxProven = 256

// proven are intermediates whose signatures were verified, so that whoever shows them again makes nobody verify them
// again. A signature never gets wrong, so there is nothing to forget.
type proven struct {
	mu   sync.Mutex
	seen map[[sha256.Size]byte]bool // of certificate and parent's key
}

func provenKey(c, parent *x509.Certificate) [sha256.Size]byte {
	whole := sha256.Sum256(c.Raw)
	return sha256.Sum256(append(whole[:], parent.RawSubjectPublicKeyInfo...))
}

func (p *proven) has(key [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[key]
}

func (p *proven) add(key [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.seen) >= maxProven {
		clear(p.seen)
	}
	p.seen[key] = true
}

// signed verifies that the parent has signed the certificate. The caller has checked that the parent may.
func (b *Bundle) signed(c, parent *x509.Certificate) error {
	if !c.IsCA {
		return checkSignature(c, parent)
	}
	key := provenKey(c, parent)
	if b.proven.has(key) {
		return nil
	}
	if err := checkSignature(c, parent); err != nil {
		return err
	}
	b.proven.add(key)
	return nil
}
