package certs

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

// Trusted are the authorities that bundles hold at now: all but those that Tombstone keeps.
func (l Authorities) Trusted(now time.Time) Authorities {
	return slices.DeleteFunc(slices.Clone(l), func(a *Authority) bool { return a.Slot == v1alpha1.SlotRetired && now.After(a.TrustedUntil) })
}

// Tombstone puts what a change has taken out of the list in front of it, as Retired whose trust is over, until its
// certificate has expired. Packages that share a CertificateAuthority are rendered at different times: a bundle may
// trust longer what the list has dropped, and without the memory of it such a bundle would look like that of another
// CA.
func (l Authorities) Tombstone(before Authorities, now time.Time) Authorities {
	var buried Authorities
	for _, a := range before {
		if slices.ContainsFunc(l.Certificates(), a.Certificate.Equal) || now.After(a.Certificate.NotAfter) {
			continue
		}
		gone := &Authority{Slot: v1alpha1.SlotRetired, Certificate: a.Certificate, ActiveSince: a.ActiveSince, TrustedUntil: a.TrustedUntil, Replaced: a.Replaced}
		if a.Slot != v1alpha1.SlotRetired || a.TrustedUntil.After(now) {
			gone.TrustedUntil = now.Add(-time.Second)
		}
		if a.Slot == v1alpha1.SlotNext {
			// only a replacement drops it, as its key is in wrong hands: no leaf of it may extend the trust (Extend)
			gone.Replaced = now
		}
		buried = append(buried, gone)
	}
	return append(buried, l...)
}

// Import takes in authorities that bundles trust and the list does not know, such as those of another branch: nobody
// has their keys here, their leaves are valid, and they go with everything that is being replaced.
func (l Authorities) Import(unknown []*x509.Certificate, now time.Time) Authorities {
	return append(Recover(unknown, now), l...)
}

// Unknown are the certificates of a bundle that are not in the list and have not expired.
func (l Authorities) Unknown(bundle []*x509.Certificate, now time.Time) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(bundle), func(c *x509.Certificate) bool {
		return slices.ContainsFunc(l.Certificates(), c.Equal) || !c.NotAfter.After(now)
	})
}

// SignsUntil is when the Active gives way to Next, or when it should have; zero without an Active. A render before that
// changes nothing, one after it does it, though never before Next has been published long enough.
func (p Profile) SignsUntil(l Authorities) time.Time {
	active := l.In(v1alpha1.SlotActive)
	if active == nil {
		_, at := l.NextStep()
		return at
	}
	due := p.promotionDue(active)
	if next := l.In(v1alpha1.SlotNext); next != nil && due.Before(l.publishedEnough(next)) {
		return l.publishedEnough(next)
	}
	return due
}

// LastSigning is until when the Active can sign leaves of whole length: the latest time at which somebody has to issue.
// Zero without an Active.
func (p Profile) LastSigning(l Authorities) time.Time {
	if active := l.In(v1alpha1.SlotActive); active != nil {
		return p.lastSigning(active)
	}
	return time.Time{}
}
