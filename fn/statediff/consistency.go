package statediff

import (
	"crypto/x509"
	"slices"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/internal/svid"
)

// CheckConsistency reports where the bundles say something else than the CertificateAuthority beside them, or that they
// share: a build reads the bundles alone, so one that was edited trusts whom nobody issues for, and accepts what is
// revoked. Shared says that the authority is that of --ca, of which CheckSharedCA reports what is missing.
func (c *Checker) CheckConsistency(s, authority *State, shared bool) {
	if !authority.HasAuthority {
		return
	}
	for _, bundle := range sorted(s.Bundles) {
		c.checkBundle(bundle, authority, shared)
	}
	if !shared {
		c.checkRetired(s, authority)
	}
}

// checkRetired warns of retired authorities that are trusted for longer than anything that they can have signed.
func (c *Checker) checkRetired(s, authority *State) {
	var leaves []*x509.Certificate
	for _, leaf := range s.Leaves {
		leaves = append(leaves, leaf.Certificate)
	}
	for _, a := range c.Profile.Unearned(authority.Authorities, leaves, c.Now) {
		c.Report.Warn(authority.Authority, authorityField(slices.Index(authority.Authorities, a)), certs.UnearnedText, a.Certificate.Subject.CommonName, stamp(a.TrustedUntil),
			stamp(authority.Authorities.In(v1alpha1.SlotActive).ActiveSince))
	}
}

func (c *Checker) checkBundle(bundle Bundle, authority *State, shared bool) {
	const way = "restore both from one commit, or run `meshless issue` and commit the result"
	for _, ca := range bundle.Authorities {
		if !holds(authority.Authorities.Certificates(), ca) && !slices.Contains(bundle.Additional, svid.Fingerprint(ca)) && !c.Now.After(ca.NotAfter) {
			c.Report.Error(bundle.Object, bundleField, "trusts %q, which the CertificateAuthority does not know: it could make any identity there; %s", ca.Subject, way)
		}
	}
	if shared {
		return
	}
	for _, a := range authority.Authorities.Trusted(c.Now) {
		if !holds(bundle.Authorities, a.Certificate) && !c.Now.After(a.Certificate.NotAfter) {
			c.Report.Error(bundle.Object, bundleField, "lacks authority %q, which is %s in the CertificateAuthority; %s", a.Certificate.Subject.CommonName, a.Slot, way)
		}
	}
	for key, revoked := range sorted(authority.Revoked) {
		if !revoked.Until.IsZero() && authority.stillRevoked(key, c.Now) && !slices.Contains(bundle.Revoked, key) {
			c.Report.Error(bundle.Object, listedField, "does not list key %s, which the CertificateAuthority revokes: a build would accept it; %s", key, way)
		}
	}
}
