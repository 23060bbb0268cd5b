package statediff

import (
	"slices"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
)

// urgent is how long before an authority signs it is an error that a bundle does not hold it.
const urgent = 48 * time.Hour

// CheckSharedCA reports what the bundles of a package lack of the CertificateAuthority that it shares with others,
// whose leaves its pods are to accept.
func (c *Checker) CheckSharedCA(s, shared *State) {
	c.replacedLeaves(s, shared)
	for _, bundle := range sorted(s.Bundles) {
		if !shareOne(bundle.Authorities, shared.Authorities.Certificates()) {
			c.Report.Error(bundle.Object, bundleField, "has no authority in common with the CertificateAuthority of --ca: it is another CA's")
			continue
		}
		trusted := shared.Authorities.Trusted(c.Now)
		for _, a := range trusted {
			if !holds(bundle.Authorities, a.Certificate) {
				c.lacks(bundle, a, c.Profile.SignsUntil(shared.Authorities))
			}
		}
		for _, a := range shared.Authorities {
			if !slices.Contains(trusted, a) && holds(bundle.Authorities, a.Certificate) {
				c.Report.Warn(bundle.Object, bundleField, "still trusts authority %q, which was dropped; run `meshless issue --ca` and commit the result", a.Certificate.Subject.CommonName)
			}
		}
		for key := range sorted(shared.Revoked) {
			if shared.stillRevoked(key, c.Now) && !slices.Contains(bundle.Revoked, key) {
				c.Report.Error(bundle.Object, listedField, "does not list key %s, which is revoked; run `meshless issue --ca` and commit the result", key)
			}
		}
	}
}

// replacedLeaves reports leaves of authorities whose successor signs: they are dropped two days after it began to,
// wherever the CertificateAuthority is used.
func (c *Checker) replacedLeaves(s, shared *State) {
	replaced := shared.Authorities.Replaced()
	for id, leaf := range sorted(s.Leaves) {
		if ca := signerIn(replaced, leaf.Certificate); ca != nil {
			c.Report.Error(leaf.Secret, leafField, "the certificate of %s is of authority %q, which has been replaced and is dropped everywhere within two days; run `meshless issue --ca` and sync at once",
				id, ca.Subject.CommonName)
		}
	}
}

// lacks reports that a bundle does not hold an authority: an error where leaves of it are out, or soon are.
func (c *Checker) lacks(bundle Bundle, a *certs.Authority, signs time.Time) {
	name := a.Certificate.Subject.CommonName
	switch {
	case a.Slot != v1alpha1.SlotNext:
		c.Report.Error(bundle.Object, bundleField, "lacks authority %q, which is %s: leaves of it that other packages have are refused; run `meshless issue --ca` and sync at once", name, a.Slot)
	case signs.Sub(c.Now) <= urgent:
		c.Report.Error(bundle.Object, bundleField, "lacks authority %q, which signs from %s on; run `meshless issue --ca` and sync before", name, stamp(signs))
	default:
		c.Report.Warn(bundle.Object, bundleField, "lacks authority %q, which signs from %s on; run `meshless issue --ca` in time", name, stamp(signs))
	}
}
