package statediff

import (
	"crypto/x509"
	"maps"
	"slices"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/svid"
)

// wayBack is the way out of a state that is older than what is deployed.
const wayBack = "take the state of the deployed branch (git checkout BASE -- DIR/mtls) and run `meshless issue`, which brings it up to date with everything else of this branch"

// CheckRegression compares the state that is about to be deployed, head, with the one that is deployed, base. It
// reports what head undoes: a branch that is behind, a revert, a merge that took the wrong side. It also reports what
// deployed pods would refuse at the moment of the change. Whole says that head was read from its folder, where the
// CertificateAuthority belongs to it.
func (c *Checker) CheckRegression(base, head *State, whole bool) {
	if base.Empty() {
		c.Report.Warn(report.Object{}, "", "the base holds no state of meshless: there is nothing to compare with. That is right before the first certificates are merged, and never again")
		return
	}
	if head.Empty() {
		c.gone(base, head.Managed)
		return
	}
	d := &regression{Checker: c, base: base, head: head}
	if d.sameAuthority(whole); c.Report.Failed() {
		return
	}
	d.revocations()
	d.replacement()
	d.trusted()
	d.known()
	d.added()
}

// gone reports that nothing is left of the base's state, of which its objects tell.
func (c *Checker) gone(base *State, managed bool) {
	if !managed {
		c.Report.Error(base.main(), "", "the state is gone, and the base has one: without it the next `meshless issue` starts a new CA, which is an outage; %s", wayBack)
		return
	}
	c.Report.Warn(base.main(), "", "cert-manager issues now, and the state of the base goes: pods of before and after trust each other only where their bundles overlap, see \"Changing the issuer\" in docs/certificates.md")
	object, field := base.revokedIn()
	for key := range sorted(base.Revoked) {
		c.Report.Warn(object, field, "key %s is revoked in the base, and nothing keeps that with cert-manager: it is accepted again wherever the authority that signed its certificate is still trusted", key)
	}
}

// regression compares the state that is deployed with the one that is about to be.
type regression struct {
	*Checker
	base, head *State
}

// sameAuthority reports a CertificateAuthority that is not the one of the base.
func (c *regression) sameAuthority(whole bool) {
	switch {
	case !c.base.HasAuthority:
	case !c.head.HasAuthority && whole && len(c.head.Leaves) > 0:
		c.Report.Error(c.base.Authority, "", "the CertificateAuthority is gone, and the base has one; %s", wayBack)
	case c.head.HasAuthority && !shareOne(c.head.Authorities.Certificates(), c.base.Authorities.Certificates()):
		c.Report.Error(c.head.Authority, authoritiesField, "the CertificateAuthority is another one than in the base: they have no authority in common, so pods of before and after would refuse each other; %s", wayBack)
	}
}

// revocations reports keys that the base refuses and the new state does not, or even uses.
func (c *regression) revocations() {
	object, field := c.head.revokedIn()
	for key, revoked := range sorted(c.base.Revoked) {
		if !c.base.stillRevoked(key, c.Now) || c.head.stillRevoked(key, c.Now) {
			continue
		}
		hint := ""
		if revoked.Until.IsZero() {
			hint = ". If it was dropped since its time is over, give a --base that holds the CertificateAuthority, which knows"
		}
		c.Report.Error(object, field, "key %s is revoked in the base and would not be any more; %s%s", key, wayBack, hint)
	}
	for id, leaf := range sorted(c.head.Leaves) {
		if key := svid.KeyDigest(leaf.Certificate); c.base.stillRevoked(key, c.Now) {
			c.Report.Error(leaf.Secret, leafField, "the certificate of %s is back whose key %s is revoked in the base: nobody would accept it; %s", id, key, wayBack)
		}
	}
}

// replacement reports authorities whose replacement was begun in the base, and that would sign on as if nothing had
// happened.
func (c *regression) replacement() {
	for _, old := range c.base.Authorities {
		for i, a := range c.head.Authorities {
			longer := old.Slot == v1alpha1.SlotRetired && a.TrustedUntil.After(old.TrustedUntil)
			if !old.Replaced.IsZero() && (a.Replaced.IsZero() || longer) && a.Certificate.Equal(old.Certificate) {
				c.Report.Error(c.head.Authority, authorityField(i), "authority %q is being replaced in the base, since %s, and would be kept; %s",
					a.Certificate.Subject.CommonName, stamp(old.Replaced), wayBack)
			}
		}
	}
}

// trusted reports authorities without which leaves that are deployed would be refused.
func (c *regression) trusted() {
	reported := map[string]bool{}
	for id, deployed := range sorted(c.base.Leaves) {
		leaf := deployed.Certificate
		signer := c.base.signer(leaf)
		if signer == nil || c.Now.After(leaf.NotAfter) || c.base.stillRevoked(svid.KeyDigest(leaf), c.Now) || reported[string(signer.SubjectKeyId)] {
			continue
		}
		for _, bundle := range sorted(c.head.Bundles) {
			if !holds(bundle.Authorities, signer) {
				reported[string(signer.SubjectKeyId)] = true
				c.Report.Error(bundle.Object, bundleField, "authority %q is missing, and pods run with leaves of it until they have synced (that of %s, and maybe more): "+
					"they would be refused; %s", signer.Subject.CommonName, id, wayBack)
				break
			}
		}
	}
}

// known reports leaves of authorities that the deployed bundles do not trust yet: pods that have not synced would
// refuse them.
func (c *regression) known() {
	alive := func(leaf Leaf) bool { return !c.Now.After(leaf.Certificate.NotAfter) }
	if !slices.ContainsFunc(slices.Collect(maps.Values(c.base.Leaves)), alive) {
		return // nobody is left whom it could concern
	}
	reported := map[string]bool{}
	for id, leaf := range sorted(c.head.Leaves) {
		for namespace, bundle := range sorted(c.base.Bundles) {
			if signerIn(bundle.Authorities, leaf.Certificate) != nil || reported[string(leaf.Certificate.AuthorityKeyId)] {
				continue
			}
			reported[string(leaf.Certificate.AuthorityKeyId)] = true
			c.Report.Error(leaf.Secret, leafField, "the certificate of %s (and maybe more) is of an authority that the base does not trust in namespace %q: pods that have not synced would refuse it. "+
				"Every authority is merged and synced before it signs; %s", id, namespace, wayBack)
		}
	}
}

// added names what would be trusted that is not yet: each authority can make any identity of the trust domain. One that
// signs, or has signed, was published before.
func (c *regression) added() {
	known := c.base.Authorities.Certificates()
	for _, bundle := range c.base.Bundles {
		known = append(known, bundle.Authorities...)
	}
	isNew := func(ca *x509.Certificate) bool { return !holds(known, ca) && !c.Now.After(ca.NotAfter) }
	trusted := c.head.Authorities.Trusted(c.Now)
	for i, a := range c.head.Authorities {
		if slices.Contains(trusted, a) && isNew(a.Certificate) && c.planted(a) {
			known = append(known, a.Certificate)
			c.Report.Error(c.head.Authority, authorityField(i), "authority %q is %s, and the base does not know it: whatever signs or has signed was Next and published before. It can make any identity, "+
				"so somebody has planted it, or two steps are in one merge; %s", a.Certificate.Subject.CommonName, a.Slot, wayBack)
		}
	}
	say := func(object report.Object, field string, ca *x509.Certificate) {
		if isNew(ca) {
			known = append(known, ca)
			c.Report.Warn(object, field, "authority %q would be trusted, and is not in the base: it can make any identity. That is right where the CA has rolled or is being replaced, or where "+
				"spec.certificates.ca.additional adds it; else somebody has planted it", ca.Subject)
		}
	}
	for i, a := range c.head.Authorities {
		if slices.Contains(trusted, a) {
			say(c.head.Authority, authorityField(i), a.Certificate)
		}
	}
	for _, bundle := range sorted(c.head.Bundles) {
		for _, ca := range bundle.Authorities {
			say(bundle.Object, bundleField, ca)
		}
	}
}

// planted tells whether an authority that the base does not know cannot have become what it is by a render.
func (c *regression) planted(a *certs.Authority) bool {
	if a.Slot == v1alpha1.SlotNext || !a.Replaced.IsZero() {
		return false
	}
	// an Active that takes the place of a Next is a new beginning, when nobody is left whom it could concern; known
	// says what else it can be
	next := c.base.Authorities.In(v1alpha1.SlotNext)
	begins := next == nil || c.head.retired(next.Certificate)
	return a.Slot != v1alpha1.SlotActive || !begins
}

// retired tells whether an authority is Retired here.
func (s *State) retired(ca *x509.Certificate) bool {
	return slices.ContainsFunc(s.Authorities, func(a *certs.Authority) bool { return a.Slot == v1alpha1.SlotRetired && a.Certificate.Equal(ca) })
}
