package issue

import (
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// refuseManaged refuses, where cert-manager issues, what only a CertificateAuthority could do.
func refuseManaged(o Options, r *report.Report) {
	const why = "cert-manager issues the certificates of this mesh, and there is no CertificateAuthority to "
	if len(o.Actions.Revoke) > 0 {
		r.Error(r.Config(), "spec.certificates.issuer", "revoke: "+why+"keep revoked keys. Give the workload a new key (cmctl renew -n NAMESPACE CERTIFICATE); if the old one must not be accepted until it expires, replace the issuer's CA")
	}
	if len(o.Actions.Renew) > 0 {
		r.Error(r.Config(), "spec.certificates.issuer", "--renew: "+why+"sign. Run `cmctl renew -n NAMESPACE CERTIFICATE`; the Certificate of deployment/web is meshless-deployment-web")
	}
	if o.Actions.ReplaceCA {
		r.Error(r.Config(), "spec.certificates.issuer", "--replace-ca: "+why+"replace. The CA is that of the issuer in spec.certificates.certManager.issuerRef")
	}
	if o.SharedCA {
		r.Error(r.Config(), "spec.certificates.issuer", "--ca: "+why+"share")
	}
}

// refuseOwn refuses to renew what a user's Secret holds.
func (i *issuer) refuseOwn(renew map[*manifest.Workload]bool) {
	for w := range renew {
		if w.Overrides.TLSSecret != "" {
			i.report.Error(w.Object, w.Field(report.Annotation(api.TLSSecretAnnotation)), "--renew: its certificate is that of secret %q; renew it where it was made",
				w.Overrides.TLSSecret)
		}
	}
}

// warnSwitch says what a change of the issuer means, in the render that takes the state of the other one out.
func warnSwitch(m *manifest.Model, now time.Time, r *report.Report) {
	state := m.State
	sealed := len(state.Leaves) > 0 || len(state.Bundles) > 0 || state.Authority != nil
	if m.Spec.UsesCertManager() {
		warnForgotten(m, now, r)
	}
	if managed := m.Spec.UsesCertManager(); managed && sealed || !managed && len(state.Certificates) > 0 {
		r.Warn(r.Config(), "spec.certificates.issuer", "is %s, and the input holds state of another issuer, which is removed: pods of before and after trust each other only where their bundles overlap, see "+
			"\"Changing the issuer\" in docs/certificates.md. In a kustomization, `meshless issue` clears the folder `mtls`", m.Spec.Certificates.Issuer)
	}
}

// warnForgotten names the revoked keys that a change to cert-manager forgets, since only a CertificateAuthority keeps
// them.
func warnForgotten(m *manifest.Model, now time.Time, r *report.Report) {
	if m.State.Authority == nil {
		return
	}
	state, err := v1alpha1.ParseCertificateAuthority(m.State.Authority)
	if err != nil {
		return
	}
	for _, key := range certs.Revocations(state.Spec.Revoked).At(now) {
		r.Warn(report.ObjectOf(m.State.Authority), "spec.revoked", "key %s of %s is revoked until %s, and nothing keeps that with cert-manager: it is accepted again wherever the authority that signed "+
			"its certificate is still trusted. Wait until then with the change of the issuer, or trust the old authorities no more", key.Key, orUnknown(key.SPIFFEID), key.Until.UTC().Format(time.RFC3339))
	}
}
