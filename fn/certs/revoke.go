package certs

import (
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
)

// keepRevoked is how long a revoked key is listed after its last certificate has expired, for clocks that are wrong and
// branches that are late.
const keepRevoked = 24 * time.Hour

// RevokedKey is a key that peers refuse although its certificate is valid.
type RevokedKey struct {
	Digest string    // as svid.KeyDigest returns it
	ID     string    // SPIFFE ID of the workload whose key it was
	Until  time.Time // when the entry may go
}

// Revoke is the entry for the key of a leaf.
func Revoke(leaf *x509.Certificate) RevokedKey {
	k := RevokedKey{Digest: svid.KeyDigest(leaf), Until: leaf.NotAfter.Add(keepRevoked)}
	if len(leaf.URIs) == 1 {
		k.ID = leaf.URIs[0].String()
	}
	return k
}

// Revocations are the revoked keys of a trust domain, sorted by digest.
type Revocations []RevokedKey

// At are the revocations that still matter at now, and those of more.
func (r Revocations) At(now time.Time, more ...RevokedKey) Revocations {
	var out Revocations
	seen := map[string]bool{}
	for _, k := range slices.Concat(r, more) {
		if !now.After(k.Until) && !seen[k.Digest] {
			seen[k.Digest] = true
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b RevokedKey) int { return strings.Compare(a.Digest, b.Digest) })
	return out
}

// Digests are the keys as mesh maps list them.
func (r Revocations) Digests() []string {
	var digests []string
	for _, k := range r {
		digests = append(digests, k.Digest)
	}
	return digests
}

// Extend is the list in which an entry stays for as long as any of the leaves with its key is valid, whatever its date
// says: an edited date does not take a revocation back.
func (r Revocations) Extend(leaves []*x509.Certificate) Revocations {
	until := map[string]time.Time{}
	for _, leaf := range leaves {
		if digest, end := svid.KeyDigest(leaf), leaf.NotAfter.Add(keepRevoked); end.After(until[digest]) {
			until[digest] = end
		}
	}
	out := slices.Clone(r)
	for i, k := range out {
		if end := until[k.Digest]; end.After(k.Until) {
			out[i].Until = end
		}
	}
	return out
}
