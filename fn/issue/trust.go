package issue

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// trust determines the authorities, rolled where that is allowed, and the bundle. In the output of `kustomize build`
// the CA object is absent, and the bundle is what the state says.
func (i *issuer) trust() (certs.Authorities, []*x509.Certificate) {
	if i.model.State.Authority == nil {
		return i.trustWithout()
	}
	authorities := i.authorities()
	if i.report.Failed() {
		return nil, nil
	}
	replaced := authorities
	if i.Mode == Issue && i.Actions.ReplaceCA {
		replaced = i.replaceAll(authorities)
	} else {
		i.refuseForeign(authorities)
		i.refuseUnpublished(authorities)
		i.warnUnearned(authorities)
	}
	if i.report.Failed() {
		return nil, nil
	}
	if i.Mode == Issue {
		rolled, trusted := i.roll(replaced)
		if i.SharedCA {
			rolled = rolled.Tombstone(authorities, i.Now)
		}
		return rolled, trusted
	}
	if i.stored != nil && !sameCertificates(i.stored, authorities.Certificates()) {
		i.report.ErrorIn(i.model.State.Bundles[0], "data", "does not hold the certificates of the CertificateAuthority; run `meshless issue` and commit the result")
	}
	return authorities, i.stored
}

// authority is the CertificateAuthority of the input, or the one that this render makes.
func (i *issuer) authority() report.Object {
	if item := i.model.State.Authority; item != nil {
		return report.ObjectOf(item)
	}
	return report.Object{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindCertificateAuthority, Name: i.report.Config().Name}
}

// trustWithout is trust where there is no CertificateAuthority.
func (i *issuer) trustWithout() (certs.Authorities, []*x509.Certificate) {
	switch fresh := len(i.model.State.Leaves) == 0 && i.stored == nil; {
	case i.Mode != Issue:
		i.warnExpired()
		return nil, i.stored
	case fresh:
		return i.roll(nil)
	case i.Actions.ReplaceCA && i.stored != nil:
		return i.roll(certs.Recover(i.stored, i.Now))
	}
	i.report.Error(i.authority(), "spec.authorities", "the state in the input has no CertificateAuthority: either the function sees a part of the package only (run it on the whole, without selectors), or the "+
		"object is lost. Restore it from Git (mtls/ca.yaml). If packages share it, name its file: `meshless issue --ca FILE`. If it is gone for good, run `meshless issue --replace-ca`, which needs two more runs, "+
		"two and four days later, and no outage")
	return nil, nil
}

// refuseForeign refuses a CertificateAuthority that does not know what the bundles trust: it is not the one that made
// them, and with it every pod's leaf and trust would be replaced at once.
func (i *issuer) refuseForeign(authorities certs.Authorities) {
	for _, trusted := range i.stored {
		known := slices.ContainsFunc(authorities.Certificates(), trusted.Equal)
		if !known && trusted.NotAfter.After(i.Now) && !i.report.Failed() {
			i.report.ErrorIn(i.model.State.Authority, "spec.authorities", "does not hold %q, which the bundles trust: object and bundles are of different states, as after "+
				"a merge, a revert or a copy from elsewhere. Restore both from one commit; if none has both, `meshless issue --replace-ca` trusts all of them until it has replaced them, "+
				"with two more runs, two and four days later, and no outage", trusted.Subject.CommonName)
		}
	}
}

// authorities reads the CertificateAuthority; nil after an error.
func (i *issuer) authorities() certs.Authorities {
	object := report.ObjectOf(i.model.State.Authority)
	state, err := v1alpha1.ParseCertificateAuthority(i.model.State.Authority)
	if err != nil {
		i.report.Error(object, "", "%v", err)
		return nil
	}
	authorities, err := certs.ParseAuthorities(state, i.model.TrustDomain)
	if err != nil {
		i.report.Error(object, "", "%v", err)
		return nil
	}
	i.checkAuthorities(object, authorities)
	if active := authorities.In(v1alpha1.SlotActive); active != nil && active.Replaced.IsZero() && active.Recipients != i.recipients.ca.Digest() {
		i.report.Warn(object, "spec.authorities", "the Active authority is sealed to other recipients than spec.certificates.ca.recipients; the config's apply to authorities that are made from now on")
	}
	return authorities
}

// roll brings authorities up to date, says what changed, and returns them with the certificates that are trusted.
func (i *issuer) roll(authorities certs.Authorities) (certs.Authorities, []*x509.Certificate) {
	authorities = i.extend(authorities)
	rolled, err := i.profile.Roll(authorities, latestExpiry(i.leaves), i.Now)
	if err != nil {
		i.report.Error(i.authority(), "spec.authorities", "making an authority: %v", err)
		return nil, nil
	}
	trusted := rolled.Certificates()
	for _, a := range rolled {
		if !slices.ContainsFunc(authorities, func(old *certs.Authority) bool { return old.Certificate == a.Certificate && old.Slot == a.Slot }) {
			i.report.Info(i.authority(), "spec.authorities", "authority %q is %s now", a.Certificate.Subject.CommonName, a.Slot)
		}
	}
	for _, a := range authorities.Trusted(i.Now) {
		if i.SharedCA && i.stored != nil && !slices.ContainsFunc(i.stored, a.Certificate.Equal) && slices.ContainsFunc(trusted, a.Certificate.Equal) {
			i.report.Info(i.authority(), "spec.authorities", "authority %q of the shared CertificateAuthority, which is %s there, is trusted by this package from now on", a.Certificate.Subject.CommonName, a.Slot)
		}
	}
	for _, old := range authorities {
		if !slices.ContainsFunc(trusted, old.Certificate.Equal) && (!i.SharedCA || slices.ContainsFunc(i.stored, old.Certificate.Equal)) {
			i.report.Info(i.authority(), "spec.authorities", "authority %q is trusted no more: nothing that it signed is valid", old.Certificate.Subject.CommonName)
		}
	}
	if what, at := rolled.NextStep(); what != "" {
		i.report.Info(i.authority(), "spec.authorities", "the CA is being replaced: run `meshless issue` again after %s, when %s", at.UTC().Format(time.RFC3339), what)
	}
	i.warnCutShort(rolled)
	return rolled, trusted
}

// storedBundle reads the bundles of the state; nil when there is none. They must agree, except where this render writes
// them anew: then it is all that any of them holds.
func (i *issuer) storedBundle() []*x509.Certificate {
	var stored []*x509.Certificate
	for n, item := range i.model.State.Bundles {
		certificates, err := svid.ParseCertificates([]byte(item.GetDataMap()[api.BundleFile]))
		// those that the config added may be such as are refused now, and taking them out there must help
		certificates, _ = splitBundle(item, certificates)
		if err == nil && len(certificates) > 0 {
			_, err = svid.NewBundle(i.model.TrustDomain, certificates, nil)
		}
		if err == nil && (n == 0 || !sameCertificates(stored, certificates)) {
			err = certs.CheckBundle(certificates, i.model.TrustDomain)
		}
		switch {
		case err != nil:
			i.report.ErrorIn(item, report.Data(api.BundleFile), "%v; restore it from Git", err)
		case n > 0 && !sameCertificates(stored, certificates) && i.Mode == Issue:
			stored = unionOf(stored, certificates)
		case n > 0 && !sameCertificates(stored, certificates):
			i.report.ErrorIn(item, report.Data(api.BundleFile), "holds other authorities than the bundle of namespace %q; run `meshless issue` on the whole package",
				manifest.NamespaceOf(i.model.State.Bundles[0]))
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
