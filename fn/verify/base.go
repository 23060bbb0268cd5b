package verify

import (
	"crypto/x509"
	"maps"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/svid"
)

// wayBack is the way out of a state that is older than what is deployed.
const wayBack = "take the state of the deployed branch (git checkout BASE -- DIR/mtls) and run `meshless issue`, which brings it up to date with everything else of this branch"

// Backwards reports what of the state that is deployed, base, is undone by another that is about to be: a branch that
// is behind, a revert, a merge that took the wrong side. It also holds a new state against what deployed pods accept at
// the moment of the change. Whole says that the new state was read from its folder, where the CertificateAuthority
// belongs to it.
func Backwards(base, head *State, whole bool, now time.Time, r *report.Report) {
	if base.Empty() {
		r.Warn(report.Object{}, "", "the base holds no state of meshless: there is nothing to compare with. That is right before the first certificates are merged, and never again")
		return
	}
	c := &comparison{base: base, head: head, now: now, report: r}
	if head.Empty() && head.Managed {
		r.Warn(report.Object{}, "", "cert-manager issues now, and the state of the base goes: pods of before and after trust each other only where their bundles overlap, see \"Changing the issuer\" in docs/certificates.md")
		for _, key := range slices.Sorted(maps.Keys(base.Revoked)) {
			r.Warn(report.Object{}, "", "key %s is revoked in the base, and nothing keeps that with cert-manager: it is accepted again wherever the authority that signed its certificate is still trusted", key)
		}
		return
	}
	if head.Empty() {
		r.Error(report.Object{}, "", "the state is gone, and the base has one: without it the next `meshless issue` starts a new CA, which is an outage; %s", wayBack)
		return
	}
	if c.sameAuthority(whole); r.Failed() {
		return
	}
	c.revocations()
	c.replacement()
	c.trusted()
	c.known()
	c.added()
}

type comparison struct {
	base, head *State
	now        time.Time
	report     *report.Report
}

// sameAuthority reports a CertificateAuthority that is not the one of the base.
func (c *comparison) sameAuthority(whole bool) {
	switch {
	case !c.base.HasAuthority:
	case !c.head.HasAuthority && whole && len(c.head.Leaves) > 0:
		c.report.Error(report.Object{}, "", "the CertificateAuthority is gone, and the base has one; %s", wayBack)
	case c.head.HasAuthority && !slices.ContainsFunc(c.head.Authorities.Certificates(), func(ca *x509.Certificate) bool {
		return slices.ContainsFunc(c.base.Authorities.Certificates(), ca.Equal)
	}):
		c.report.Error(report.Object{}, "", "the CertificateAuthority is another one than in the base: they have no authority in common, so pods of before and after would refuse each other; %s", wayBack)
	}
}

// revocations reports keys that the base refuses and the new state does not, or even uses.
func (c *comparison) revocations() {
	for _, key := range slices.Sorted(maps.Keys(c.base.Revoked)) {
		if !c.base.stillRevoked(key, c.now) || c.head.stillRevoked(key, c.now) {
			continue
		}
		hint := ""
		if c.base.Revoked[key].Until.IsZero() {
			hint = ". If it was dropped since its time is over, give a --base that holds the CertificateAuthority, which knows"
		}
		c.report.Error(report.Object{}, "", "key %s is revoked in the base and would not be any more; %s%s", key, wayBack, hint)
	}
	for _, id := range slices.Sorted(maps.Keys(c.head.Leaves)) {
		if key := svid.KeyDigest(c.head.Leaves[id]); c.base.stillRevoked(key, c.now) {
			c.report.Error(report.Object{}, "", "the certificate of %s is back whose key %s is revoked in the base: nobody would accept it; %s", id, key, wayBack)
		}
	}
}

// replacement reports authorities whose replacement was begun in the base, and that would sign on as if nothing had
// happened.
func (c *comparison) replacement() {
	for _, old := range c.base.Authorities {
		for _, a := range c.head.Authorities {
			longer := old.Slot == v1alpha1.SlotRetired && a.TrustedUntil.After(old.TrustedUntil)
			if !old.Replaced.IsZero() && (a.Replaced.IsZero() || longer) && a.Certificate.Equal(old.Certificate) {
				c.report.Error(report.Object{}, "", "authority %q is being replaced in the base, since %s, and would be kept; %s",
					a.Certificate.Subject.CommonName, old.Replaced.UTC().Format(time.RFC3339), wayBack)
			}
		}
	}
}

// trusted reports authorities without which leaves that are deployed would be refused.
func (c *comparison) trusted() {
	reported := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(c.base.Leaves)) {
		leaf := c.base.Leaves[id]
		signer := c.base.signer(leaf)
		if signer == nil || c.now.After(leaf.NotAfter) || c.base.stillRevoked(svid.KeyDigest(leaf), c.now) || reported[string(signer.SubjectKeyId)] {
			continue
		}
		for _, namespace := range slices.Sorted(maps.Keys(c.head.Bundles)) {
			if !slices.ContainsFunc(c.head.Bundles[namespace], signer.Equal) {
				reported[string(signer.SubjectKeyId)] = true
				c.report.Error(report.Object{}, "", "authority %q is missing in the bundle of namespace %q, and pods run with leaves of it until they have synced (that of %s, and maybe more): "+
					"they would be refused; %s", signer.Subject.CommonName, namespace, id, wayBack)
				break
			}
		}
	}
}

// added names what would be trusted that is not yet: each authority can make any identity of the trust domain. One that
// signs, or has signed, was published before.
func (c *comparison) added() {
	known := c.base.Authorities.Certificates()
	for _, bundle := range c.base.Bundles {
		known = append(known, bundle...)
	}
	next := c.base.Authorities.In(v1alpha1.SlotNext)
	for _, a := range c.head.Authorities.Trusted(c.now) {
		if slices.ContainsFunc(known, a.Certificate.Equal) || c.now.After(a.Certificate.NotAfter) || a.Slot == v1alpha1.SlotNext || !a.Replaced.IsZero() {
			continue
		}
		if a.Slot == v1alpha1.SlotActive && (next == nil || c.head.retired(next.Certificate)) {
			continue // a new beginning, when nobody is left whom it could concern; known says what else it can be
		}
		known = append(known, a.Certificate)
		c.report.Error(report.Object{}, "", "authority %q is %s, and the base does not know it: whatever signs or has signed was Next and published before. It can make any identity, so somebody has planted it, or two steps "+
			"are in one merge; %s", a.Certificate.Subject.CommonName, a.Slot, wayBack)
	}
	say := func(ca *x509.Certificate) {
		if slices.ContainsFunc(known, ca.Equal) || c.now.After(ca.NotAfter) {
			return
		}
		known = append(known, ca)
		c.report.Warn(report.Object{}, "", "authority %q would be trusted, and is not in the base: it can make any identity. That is right where the CA has rolled or is being replaced, or where "+
			"spec.certificates.ca.additional adds it; else somebody has planted it", ca.Subject)
	}
	for _, a := range c.head.Authorities.Trusted(c.now) {
		say(a.Certificate)
	}
	for _, namespace := range slices.Sorted(maps.Keys(c.head.Bundles)) {
		for _, ca := range c.head.Bundles[namespace] {
			say(ca)
		}
	}
}

// retired tells whether an authority is Retired here.
func (s *State) retired(ca *x509.Certificate) bool {
	return slices.ContainsFunc(s.Authorities, func(a *certs.Authority) bool { return a.Slot == v1alpha1.SlotRetired && a.Certificate.Equal(ca) })
}

// known reports leaves of authorities that the deployed bundles do not trust yet: pods that have not synced would
// refuse them.
func (c *comparison) known() {
	if !slices.ContainsFunc(slices.Collect(maps.Values(c.base.Leaves)), func(leaf *x509.Certificate) bool { return !c.now.After(leaf.NotAfter) }) {
		return // nobody is left whom it could concern
	}
	reported := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(c.head.Leaves)) {
		leaf := c.head.Leaves[id]
		for _, namespace := range slices.Sorted(maps.Keys(c.base.Bundles)) {
			if signerIn(c.base.Bundles[namespace], leaf) != nil || reported[string(leaf.AuthorityKeyId)] {
				continue
			}
			reported[string(leaf.AuthorityKeyId)] = true
			c.report.Error(report.Object{}, "", "the certificate of %s (and maybe more) is of an authority that the base does not trust in namespace %q: pods that have not synced would refuse it. "+
				"Every authority is merged and synced before it signs; %s", id, namespace, wayBack)
		}
	}
}
