package certs

import (
	"crypto/x509"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

// dateSlack is how much later than by today's config a retired authority may be trusted: the validity may have been
// another one when it retired.
const dateSlack = 24 * time.Hour

// UnearnedText is the finding, of the authority's name, its date, and when the Active began to sign.
const UnearnedText = "authority %q is Retired and trusted until %s, longer than anything lasts that it can have signed before the Active began to, at %s: it can make any identity. A branch in which it " +
	"was Active for longer was merged, or somebody has planted it: compare with what is deployed (`meshless verify --base`), and restore this object and the bundles from Git"

// Unearned are the retired authorities that are trusted for longer than anything lasts that they can have signed, all
// of it before the Active began to. Somebody has planted the authority, or its date; or a branch was merged in which it
// signed for longer, and what it signed there has been renewed since. One with an earlier date cannot be told from one
// that was Active: only a state of before tells.
func (p Profile) Unearned(l Authorities, leaves []*x509.Certificate, now time.Time) (list Authorities) {
	active := l.In(v1alpha1.SlotActive)
	if active == nil || p.Shared || l.Replacing() {
		return nil
	}
	longest := p.Validity
	for _, a := range l {
		longest = max(longest, p.madeFor(a))
	}
	for _, a := range l.Trusted(now) {
		if a.Slot != v1alpha1.SlotRetired || !a.Replaced.IsZero() {
			continue
		}
		last := active.ActiveSince.Add(longest)
		for _, leaf := range leaves {
			if signedBy(leaf, a.Certificate) && leaf.CheckSignatureFrom(a.Certificate) == nil && leaf.NotAfter.After(last) {
				last = leaf.NotAfter
			}
		}
		if a.TrustedUntil.After(last.Add(keepRetired + dateSlack)) {
			list = append(list, a)
		}
	}
	return list
}
