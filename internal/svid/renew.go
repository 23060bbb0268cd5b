package svid

import (
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Keys is Verify that returns the digest of each key of the chain as well, the authority's among them: what a
// revocation would name.
func (m *Memo) Keys(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (spiffeid.ID, []string, error) {
	id, verified, err := m.set.verify(chain, usage, now)
	if err != nil {
		return spiffeid.ID{}, nil, err
	}
	keys := make([]string, len(verified))
	for i, c := range verified {
		keys[i] = KeyDigest(c)
	}
	return id, keys, nil
}

// CheckKeys refuses keys, in the form of KeyDigest, of which one is revoked. The error is an *Error.
func (b *Bundle) CheckKeys(keys []string) error {
	for _, key := range keys {
		if b.revoked[key] {
			return refuse(Revoked, "a key by which the peer was accepted earlier, %s, is revoked", key)
		}
	}
	return nil
}
