package svid

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Memo is a Set that remembers what it has accepted, so that the signature of an authority is verified once for a leaf
// and not at every handshake with it. Only what never changes is remembered: a Set is immutable, revoked keys included,
// and a chain counts only while all of it is valid, its authority included. That the peer has the leaf's key is no
// matter of a Set, and proved at every handshake. Make it with NewMemo; it is safe for use by many goroutines.
type Memo struct {
	set *Set

	mu       sync.RWMutex
	accepted map[memoKey]verdict
}

// maxMemo bounds what is remembered: beyond it everything is forgotten at once, which costs no more than verifying
// again.
const maxMemo = 4096

// memoKey is the digest of the certificates that a peer presented, all of them, and what for.
type memoKey struct {
	chain [sha256.Size]byte
	usage x509.ExtKeyUsage
}

// verdict is an accepted chain: of whom, and between which times.
type verdict struct {
	chain       []*x509.Certificate // what was verified of it, without the authority
	id          spiffeid.ID
	from, until time.Time
}

// NewMemo makes one that has seen nothing yet.
func NewMemo(s *Set) *Memo { return &Memo{set: s, accepted: map[memoKey]verdict{}} }

// Verify is Set.Verify. It uses what Remember stored and stores nothing: certificates are public, so a chain proves
// nothing of who shows it.
func (m *Memo) Verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (spiffeid.ID, error) {
	if v, known := m.recall(memoKey{digest(chain), usage}, now); known {
		return v.id, nil
	}
	return m.set.Verify(chain, usage, now)
}

// Remember is for a chain that Verify accepts, of a peer that has proved its key. It returns what of it was verified,
// without certificates that a peer has shown beside, as one slice for all connections of that peer. A chain that is not
// accepted any more is returned as it is.
func (m *Memo) Remember(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) []*x509.Certificate {
	presented := memoKey{digest(chain), usage}
	if v, known := m.recall(presented, now); known {
		return v.chain
	}
	id, verified, err := m.set.verify(chain, usage, now)
	if err != nil {
		return chain
	}
	v := verdictOn(id, verified)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.accepted) >= maxMemo-1 {
		clear(m.accepted)
	}
	m.accepted[presented] = v
	m.accepted[memoKey{digest(v.chain), usage}] = v // which later handshakes verify
	return v.chain
}

func (m *Memo) recall(key memoKey, now time.Time) (verdict, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, known := m.accepted[key]
	return v, known && !now.Before(v.from) && !now.After(v.until)
}

// verdictOn is valid while every certificate of the chain is.
func verdictOn(id spiffeid.ID, chain []*x509.Certificate) verdict {
	v := verdict{chain: chain[:len(chain)-1], id: id, from: chain[0].NotBefore, until: chain[0].NotAfter}
	for _, c := range chain[1:] {
		if c.NotBefore.After(v.from) {
			v.from = c.NotBefore
		}
		if c.NotAfter.Before(v.until) {
			v.until = c.NotAfter
		}
	}
	return v
}

func digest(chain []*x509.Certificate) (sum [sha256.Size]byte) {
	h := sha256.New()
	var length [8]byte
	for _, c := range chain {
		binary.BigEndian.PutUint64(length[:], uint64(len(c.Raw)))
		h.Write(length[:])
		h.Write(c.Raw)
	}
	h.Sum(sum[:0])
	return sum
}
