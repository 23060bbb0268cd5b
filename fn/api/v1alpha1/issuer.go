package v1alpha1

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// The values of Certificates.Issuer.
const (
	IssuerRollingCA   = "RollingCA"   // authorities in the state, see certificates.md
	IssuerCertManager = "CertManager" // a Certificate of cert-manager for each workload
)

// CertManager says who signs with issuer CertManager, and whom the proxies trust.
type CertManager struct {
	IssuerRef IssuerRef `json:"issuerRef,omitempty"`
	// the authorities that proxies trust; default: ca.crt in each workload's own Secret, see certificates.md
	Bundle ConfigMapKey `json:"bundle,omitempty"`
}

// IssuerRef names the issuer of cert-manager, with the defaults of cert-manager.
type IssuerRef struct {
	Name string `json:"name,omitempty"` // of the Issuer or ClusterIssuer
	// default Issuer; of the group cert-manager.io also ClusterIssuer, of others whatever they have
	Kind  string `json:"kind,omitempty"`
	Group string `json:"group,omitempty"` // default cert-manager.io
}

// ConfigMapKey names a ConfigMap, in each namespace of the mesh, as a Bundle of trust-manager makes it.
type ConfigMapKey struct {
	ConfigMap string `json:"configMap,omitempty"` // its name
	Key       string `json:"key,omitempty"`       // of the PEM text; default ca.crt
}

// UsesCertManager tells whether cert-manager issues the leaves, so that there is nothing to seal and no authority in
// the state.
func (s Spec) UsesCertManager() bool { return s.Certificates.Issuer == IssuerCertManager }

// AdditionalAuthorities are the certificates of spec.certificates.ca.additional, which Validate has read.
func (s Spec) AdditionalAuthorities() []*x509.Certificate {
	if s.Certificates.CA.Additional == "" {
		return nil
	}
	certificates, _ := svid.ParseCertificates([]byte(s.Certificates.CA.Additional))
	return certificates
}

// defaultIssuer fills in what belongs to the issuer and nothing of the other one, so that Validate sees what was
// written there.
func (s *Spec) defaultIssuer() {
	fill(&s.Certificates.Issuer, IssuerRollingCA)
	if s.UsesCertManager() {
		ref, bundle := &s.Certificates.CertManager.IssuerRef, &s.Certificates.CertManager.Bundle
		fill(&ref.Kind, "Issuer")
		fill(&ref.Group, certManagerGroup)
		if bundle.ConfigMap != "" {
			fill(&bundle.Key, api.BundleFile)
		}
		return
	}
	fill(&s.Sealing.Format, SealingAge)
	if s.Sealing.Format != SealingSOPS {
		fill(&s.Sealing.IdentitySecret.Name, api.NamePrefix+"identity")
		fill(&s.Sealing.IdentitySecret.Key, api.IdentityFile)
	}
	fill(&s.Certificates.CA.SigningPeriod.Duration, 2160*time.Hour)
}

const (
	certManagerGroup      = "cert-manager.io"
	minManagedRenewBefore = 5 * time.Minute // cert-manager.io/v1, CertificateSpec.RenewBefore
)

// issuer checks what belongs to one issuer alone. What the other one would ignore is an error: whoever wrote it relies
// on it.
func (v *validator) issuer(s Spec) {
	v.oneOf("spec.certificates.issuer", s.Certificates.Issuer, IssuerRollingCA, IssuerCertManager)
	switch s.Certificates.Issuer {
	case IssuerRollingCA:
		v.sealing(s.Sealing)
		v.within("spec.certificates.ca.signingPeriod", s.Certificates.CA.SigningPeriod.Duration, minSigningPeriod, maxSigningPeriod)
		v.periods(s.Certificates.Validity.Duration, s.Certificates.CA.SigningPeriod.Duration)
		v.additional(s)
		if s.Certificates.CertManager != (CertManager{}) {
			v.fail("spec.certificates.certManager", "has no effect with issuer %s: set issuer: %s, or leave it out", IssuerRollingCA, IssuerCertManager)
		}
	case IssuerCertManager:
		v.certManager(s)
	}
}

func (v *validator) sealing(s Sealing) {
	v.oneOf("spec.sealing.format", s.Format, SealingAge, SealingSOPS)
	if s.Format == SealingSOPS {
		if s.IdentitySecret != (SecretKey{}) {
			v.fail("spec.sealing.identitySecret", "has no effect with format %s, since the keys are open before they reach a pod: leave it out, or set format: %s", SealingSOPS, SealingAge)
		}
		return
	}
	if problems := validation.IsDNS1123Subdomain(s.IdentitySecret.Name); len(problems) > 0 {
		v.fail("spec.sealing.identitySecret.name", "%s", problems[0])
	}
	if problems := validation.IsConfigMapKey(s.IdentitySecret.Key); len(problems) > 0 {
		v.fail("spec.sealing.identitySecret.key", "%s", problems[0])
	}
}

func (v *validator) certManager(s Spec) {
	for _, ignored := range []struct {
		field string
		set   bool
		why   string
	}{
		{"spec.sealing.format", s.Sealing.Format != "", "no key is in Git"},
		{"spec.sealing.recipients", len(s.Sealing.Recipients) > 0, "no key is in Git"},
		{"spec.sealing.namespaces", len(s.Sealing.Namespaces) > 0, "no key is in Git"},
		{"spec.sealing.identitySecret", s.Sealing.IdentitySecret != SecretKey{}, "no key is in Git"},
		{"spec.certificates.ca.recipients", len(s.Certificates.CA.Recipients) > 0, "the issuer has its own authority"},
		{"spec.certificates.ca.signingPeriod", s.Certificates.CA.SigningPeriod.Duration != 0, "the issuer has its own authority"},
		{"spec.certificates.ca.additional", s.Certificates.CA.Additional != "", "the authorities are those of certManager.bundle, or ca.crt of each Secret"},
	} {
		if ignored.set {
			v.fail(ignored.field, "has no effect with issuer %s, since %s: leave it out", IssuerCertManager, ignored.why)
		}
	}
	const field = "spec.certificates.certManager"
	ref, bundle := s.Certificates.CertManager.IssuerRef, s.Certificates.CertManager.Bundle
	if len(validation.IsDNS1123Subdomain(ref.Name)) > 0 {
		v.fail(field+".issuerRef.name", "%q is not the name of an issuer of cert-manager", ref.Name)
	}
	if len(validation.IsDNS1123Subdomain(ref.Group)) > 0 {
		v.fail(field+".issuerRef.group", "%q is not an API group", ref.Group)
	}
	if ref.Group == certManagerGroup && !slices.Contains([]string{"Issuer", "ClusterIssuer"}, ref.Kind) {
		v.fail(field+".issuerRef.kind", "%q is not of the group %s, which has Issuer and ClusterIssuer; an external issuer has a group of its own", ref.Kind, certManagerGroup)
	}
	ours := strings.HasPrefix(bundle.ConfigMap, api.NamePrefix)
	if bundle.Key != "" && (ours || len(validation.IsDNS1123Subdomain(bundle.ConfigMap)) > 0 || len(validation.IsConfigMapKey(bundle.Key)) > 0) {
		v.fail(field+".bundle", "needs the name and the key of a ConfigMap of yours, such as {configMap: mesh-trust, key: ca.crt}; names that start with %s are ours", api.NamePrefix)
	}
	if left := s.Certificates.RenewBefore.Duration; left < minManagedRenewBefore {
		v.fail("spec.certificates.renewBefore", "%s is less than %s, and cert-manager accepts no less", left, minManagedRenewBefore)
	}
}

// additional checks the user's authorities as far as it can be done without a clock; package issue checks their
// expiry.
func (v *validator) additional(s Spec) {
	const field = "spec.certificates.ca.additional"
	if s.Certificates.CA.Additional == "" {
		return
	}
	td, err := spiffeid.TrustDomainFromString(s.TrustDomain)
	if err != nil {
		return // validate says it
	}
	certificates, err := svid.ParseCertificates([]byte(s.Certificates.CA.Additional))
	if err != nil {
		v.fail(field, "%v; want CA certificates in PEM", err)
		return
	}
	for i, c := range certificates {
		if err := authorityOf(c, td); err != nil {
			v.fail(field, "certificate %d (%q) %v", i+1, c.Subject, err)
		}
		if slices.ContainsFunc(certificates[:i], c.Equal) {
			v.fail(field, "certificate %d (%q) stands twice", i+1, c.Subject)
		}
	}
}

// authorityOf tells why a certificate cannot be an authority of a trust domain. One without a SPIFFE ID can (X.509-SVID
// standard, section 3.2: it is optional there); one with the ID of a workload cannot (ibid.).
func authorityOf(c *x509.Certificate, td spiffeid.TrustDomain) error {
	if err := svid.CheckAuthority(c, td); err != nil {
		return err
	}
	if i := slices.IndexFunc(c.URIs, func(uri *url.URL) bool { return uri.Scheme == "spiffe" && uri.Path != "" }); i >= 0 {
		return fmt.Errorf("names the workload %s; an authority names a trust domain, or nothing", c.URIs[i])
	}
	return nil
}
