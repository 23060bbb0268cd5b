package pipeline

import (
	"bytes"
	"path"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// delegate is certify where cert-manager issues: nothing is made here, and what only a CertificateAuthority could do is
// refused.
func delegate(o Options, r *report.Report) *issued {
	const why = "cert-manager issues the certificates of this mesh, and there is no CertificateAuthority to "
	if len(o.Revoke) > 0 {
		r.Error(report.Object{}, "", "revoke: "+why+"keep revoked keys. Give the workload a new key (cmctl renew -n NAMESPACE CERTIFICATE); if the old one must not be accepted until it expires, replace the issuer's CA")
	}
	if len(o.Renew) > 0 {
		r.Error(report.Object{}, "", "--renew: "+why+"sign. Run `cmctl renew -n NAMESPACE CERTIFICATE`; the Certificate of deployment/web is meshless-deployment-web")
	}
	if o.ReplaceCA {
		r.Error(report.Object{}, "", "--replace-ca: "+why+"replace. The CA is that of the issuer in spec.certificates.certManager.issuerRef")
	}
	if o.SharedCA {
		r.Error(report.Object{}, "", "--ca: "+why+"share")
	}
	return &issued{}
}

// refuseOwn refuses to renew what a user's Secret holds.
func (c *certifier) refuseOwn() {
	for w := range c.renew {
		if w.Overrides.TLSSecret != "" {
			c.report.Error(w.Object, w.Field("metadata.annotations["+api.TLSSecretAnnotation+"]"), "--renew: its certificate is that of secret %q; renew it where it was made",
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
			"\"Changing the issuer\" in docs/certificates.md. In a kustomization, `meshless issue` clears the folder `%s`", m.Spec.Certificates.Issuer, StateFolder)
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
	for _, key := range certs.ParseRevocations(state).At(now) {
		r.Warn(report.ObjectOf(m.State.Authority), "spec.revoked", "key %s of %s is revoked until %s, and nothing keeps that with cert-manager: it is accepted again wherever the authority that signed "+
			"its certificate is still trusted. Wait until then with the change of the issuer, or trust the old authorities no more", key.Digest, orUnknown(key.ID), key.Until.UTC().Format(time.RFC3339))
	}
}

// writeCertificate ensures the Certificate of a workload and returns it. It is derived, so its spec is ours as a whole;
// one that says the same keeps its bytes.
func (o *output) writeCertificate(w *manifest.Workload) *yaml.RNode {
	item := o.model.State.Certificates[w.ID.String()]
	if item == nil {
		item = o.add(manifest.ManagedAPIVersion, manifest.ManagedKind, path.Join(w.Namespace, strings.TrimPrefix(w.SecretName(), api.NamePrefix)+".yaml"))
	}
	o.setName(item, w.SecretName(), w.Namespace)
	annotate(item, map[string]string{api.IdentityAnnotation: w.ID.String()})
	if spec := certificateSpec(o.model, w); !sameContent(node.Get(item.YNode(), "spec"), spec) {
		node.Set(item.YNode(), "spec", spec)
	}
	return item
}

// certificateSpec asks for an X.509-SVID (cert-manager.io/v1, CertificateSpec). There is no common name: an X.509-SVID
// needs no subject, and a longer name than 64 characters is refused there. A new key at every renewal, in the form that
// the proxy reads.
func certificateSpec(m *manifest.Model, w *manifest.Workload) *yaml.Node {
	certificates := m.Spec.Certificates
	ref := certificates.CertManager.IssuerRef
	spec := node.Object(
		"secretName", w.ManagedSecretName(),
		"issuerRef", node.Object("name", ref.Name, "kind", ref.Kind, "group", ref.Group),
		"isCA", false,
		"uris", []string{w.ID.String()},
	)
	if names := w.DNSNames(); len(names) > 0 {
		node.Set(spec, "dnsNames", node.Value(names))
	}
	rest := node.Object(
		"usages", manifest.ManagedUsages,
		"privateKey", privateKey(certificates.KeyAlgorithm),
		"duration", certificates.Validity.Duration.String(),
		"renewBefore", certificates.RenewBefore.Duration.String(),
	)
	spec.Content = append(spec.Content, rest.Content...)
	return spec
}

// privateKey is an algorithm of v1alpha1.KeyAlgorithms in the words of cert-manager, which gives Ed25519 no size.
func privateKey(algorithm string) *yaml.Node {
	family, size, sized := strings.Cut(algorithm, "-")
	n := node.Object("algorithm", family)
	if bits, err := strconv.Atoi(strings.TrimPrefix(size, "P")); sized && err == nil {
		node.Set(n, "size", node.Value(bits))
	}
	n.Content = append(n.Content, node.Object("encoding", "PKCS8", "rotationPolicy", "Always").Content...)
	return n
}

// sameContent tells whether two nodes say the same, whatever their style.
func sameContent(a, b *yaml.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	left, err1 := yaml.NewRNode(a).MarshalJSON()
	right, err2 := yaml.NewRNode(b).MarshalJSON()
	return err1 == nil && err2 == nil && bytes.Equal(left, right)
}
