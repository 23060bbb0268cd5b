package certs

import (
	"crypto/x509"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/svid"
)

// keepRevoked is how long a revoked key is listed after its last certificate has expired, for clocks that are wrong and
// branches that are late.
const keepRevoked = 24 * time.Hour

// Revoke is the entry for the key of a leaf.
func Revoke(leaf *x509.Certificate) v1alpha1.RevokedKey {
	k := v1alpha1.RevokedKey{Key: svid.KeyDigest(leaf), Until: metav1.NewTime(leaf.NotAfter.Add(keepRevoked))}
	if len(leaf.URIs) == 1 {
		k.SPIFFEID = leaf.URIs[0].String()
	}
	return k
}

// Revocations are the revoked keys of a trust domain, sorted by digest.
type Revocations []v1alpha1.RevokedKey

// At are the revocations that still matter at now, and those of more.
func (r Revocations) At(now time.Time, more ...v1alpha1.RevokedKey) Revocations {
	var out Revocations
	seen := map[string]bool{}
	for _, k := range slices.Concat(r, more) {
		if !now.After(k.Until.Time) && !seen[k.Key] {
			seen[k.Key] = true
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b v1alpha1.RevokedKey) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// Digests are the keys as mesh maps list them.
func (r Revocations) Digests() []string {
	var digests []string
	for _, k := range r {
		digests = append(digests, k.Key)
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
		if end := until[k.Key]; end.After(k.Until.Time) {
			out[i].Until = metav1.NewTime(end)
		}
	}
	return out
}
