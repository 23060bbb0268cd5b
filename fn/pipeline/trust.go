package pipeline

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// trust determines the authorities, rolled where that is allowed, and the bundle. In the output of `kustomize build`
// the CA object is absent, and the bundle is what the state says.
func (c *certifier) trust(mayIssue bool) (certs.Authorities, []*x509.Certificate) {
	stored := c.storedBundle(mayIssue)
	if c.trusted = stored; c.report.Failed() {
		return nil, nil
	}
	if c.model.State.Authority == nil {
		switch fresh := len(c.model.State.Leaves) == 0 && stored == nil; {
		case !mayIssue:
			c.warnExpired(stored)
			return nil, stored
		case fresh:
			return c.roll(nil)
		case c.options.ReplaceCA && stored != nil:
			return c.roll(certs.Recover(stored, c.options.Now))
		}
		c.report.Error(report.Object{}, "", "the state in the input has no CertificateAuthority: either the function sees a part of the package only (run it on the whole, without selectors), or the "+
			"object is lost. Restore it from Git (mtls/ca.yaml). If packages share it, name its file: `meshless issue --ca FILE`. If it is gone for good, run `meshless issue --replace-ca`, which needs two more runs, "+
			"two and four days later, and no outage")
		return nil, nil
	}
	authorities := c.authorities()
	if c.report.Failed() {
		return nil, nil
	}
	replaced := authorities
	if mayIssue && c.options.ReplaceCA {
		replaced = c.replaceAll(authorities, stored)
	} else {
		c.refuseForeign(stored, authorities)
		c.refuseUnpublished(stored, authorities)
	}
	if c.report.Failed() {
		return nil, nil
	}
	if mayIssue {
		rolled, trusted := c.roll(replaced)
		if c.options.SharedCA {
			rolled = rolled.Tombstone(authorities, c.options.Now)
		}
		return rolled, trusted
	}
	if stored != nil && !sameCertificates(stored, authorities.Certificates()) {
		c.report.Error(report.ObjectOf(c.model.State.Bundles[0]), "data", "does not hold the certificates of the CertificateAuthority; run `meshless issue` and commit the result")
	}
	return authorities, stored
}

// refuseForeign refuses a CertificateAuthority that does not know what the bundles trust: it is not the one that made
// them, and with it every pod's leaf and trust would be replaced at once.
func (c *certifier) refuseForeign(stored []*x509.Certificate, authorities certs.Authorities) {
	for _, trusted := range stored {
		known := slices.ContainsFunc(authorities.Certificates(), trusted.Equal)
		if !known && trusted.NotAfter.After(c.options.Now) && !c.report.Failed() {
			c.report.Error(report.ObjectOf(c.model.State.Authority), "spec.authorities", "does not hold %q, which the bundles trust: object and bundles are of different states, as after "+
				"a merge, a revert or a copy from elsewhere. Restore both from one commit; if none has both, `meshless issue --replace-ca` trusts all of them until it has replaced them, "+
				"with two more runs, two and four days later, and no outage", trusted.Subject.CommonName)
		}
	}
}

func (c *certifier) authorities() certs.Authorities {
	object := report.ObjectOf(c.model.State.Authority)
	state, err := v1alpha1.ParseCertificateAuthority(c.model.State.Authority)
	if err != nil {
		c.report.Error(object, "", "%v", err)
		return nil
	}
	authorities, err := certs.ParseAuthorities(state, c.model.TrustDomain)
	if err != nil {
		c.report.Error(object, "", "%v", err)
		return nil
	}
	c.checkAuthorities(object, authorities)
	if active := authorities.In(v1alpha1.SlotActive); active != nil && active.Replaced.IsZero() && active.Recipients != c.sealing.ca.Digest() {
		c.report.Warn(object, "spec.authorities", "the Active authority is sealed to other recipients than spec.certificates.ca.recipients; the config's apply to authorities that are made from now on")
	}
	return authorities
}

func (c *certifier) roll(authorities certs.Authorities) (certs.Authorities, []*x509.Certificate) {
	authorities = c.keep(authorities)
	rolled, err := c.policy.Roll(authorities, latestExpiry(c.leaves), c.options.Now)
	if err != nil {
		c.report.Error(report.Object{}, "", "making an authority: %v", err)
		return nil, nil
	}
	trusted := rolled.Certificates()
	for _, a := range rolled {
		if !slices.ContainsFunc(authorities, func(old *certs.Authority) bool { return old.Certificate == a.Certificate && old.Slot == a.Slot }) {
			c.report.Info(report.Object{}, "", "authority %q is %s now", a.Certificate.Subject.CommonName, a.Slot)
		}
	}
	for _, a := range authorities.Trusted(c.options.Now) {
		if c.options.SharedCA && c.trusted != nil && !slices.ContainsFunc(c.trusted, a.Certificate.Equal) && slices.ContainsFunc(trusted, a.Certificate.Equal) {
			c.report.Info(report.Object{}, "", "authority %q of the shared CertificateAuthority, which is %s there, is trusted by this package from now on", a.Certificate.Subject.CommonName, a.Slot)
		}
	}
	for _, old := range authorities {
		if !slices.ContainsFunc(trusted, old.Certificate.Equal) && (!c.options.SharedCA || slices.ContainsFunc(c.trusted, old.Certificate.Equal)) {
			c.report.Info(report.Object{}, "", "authority %q is trusted no more: nothing that it signed is valid", old.Certificate.Subject.CommonName)
		}
	}
	if what, at := rolled.NextStep(); what != "" {
		c.report.Info(report.Object{}, "", "the CA is being replaced: run `meshless issue` again after %s, when %s", at.UTC().Format(time.RFC3339), what)
	}
	c.warnCutShort(rolled)
	return rolled, trusted
}

// storedBundle reads the bundles of the state; nil when there is none. They must agree, except where this render writes
// them anew: then it is all that any of them holds.
func (c *certifier) storedBundle(mayIssue bool) []*x509.Certificate {
	var stored []*x509.Certificate
	for i, item := range c.model.State.Bundles {
		certificates, err := svid.ParseCertificates([]byte(item.GetDataMap()[api.BundleFile]))
		if err == nil {
			_, err = svid.NewBundle(c.model.TrustDomain, certificates, nil)
		}
		certificates, _ = splitBundle(item, certificates)
		if err == nil && (i == 0 || !sameCertificates(stored, certificates)) {
			err = certs.CheckBundle(certificates, c.model.TrustDomain)
		}
		switch {
		case err != nil:
			c.report.Error(report.ObjectOf(item), "data["+api.BundleFile+"]", "%v; restore it from Git", err)
		case i > 0 && !sameCertificates(stored, certificates) && mayIssue:
			stored = unionOf(stored, certificates)
		case i > 0 && !sameCertificates(stored, certificates):
			c.report.Error(report.ObjectOf(item), "data["+api.BundleFile+"]", "holds other authorities than the bundle of namespace %q; run `meshless issue` on the whole package",
				c.model.State.Bundles[0].GetNamespace())
		default:
			stored = certificates
		}
	}
	return stored
}

func sameCertificates(a, b []*x509.Certificate) bool {
	return slices.EqualFunc(a, b, (*x509.Certificate).Equal)
}

// latestExpiry is when the last of the certificates expires; zero when there is none. Of a bundle it is until when any
// leaf can be valid, since none outlives its authority.
func latestExpiry(certificates []*x509.Certificate) (last time.Time) {
	for _, c := range certificates {
		if c.NotAfter.After(last) {
			last = c.NotAfter
		}
	}
	return last
}
