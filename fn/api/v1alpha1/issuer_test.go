package v1alpha1_test

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

// What one issuer would ignore is refused, and so is what cert-manager would refuse.
func TestIssuerRefuses(t *testing.T) {
	with := func(more string) string { return strings.Replace(managed, "{issuer:", "{"+more+", issuer:", 1) }
	ref := func(text string) string { return strings.Replace(managed, "{name: a}", "{"+text+"}", 1) }
	for config, want := range map[string]string{
		managed + "  sealing: {recipients: [age1a]}\n":                                  "spec.sealing.recipients: has no effect with issuer CertManager, since no key is in Git",
		managed + "  sealing: {format: Age}\n":                                          "spec.sealing.format",
		managed + "  sealing: {namespaces: {a: [age1a]}}\n":                             "spec.sealing.namespaces",
		managed + "  sealing: {identitySecret: {name: a}}\n":                            "spec.sealing.identitySecret",
		with("ca: {recipients: [age1a]}"):                                               "spec.certificates.ca.recipients",
		with("ca: {signingPeriod: 2160h}"):                                              "spec.certificates.ca.signingPeriod",
		with("ca: {additional: x}"):                                                     "spec.certificates.ca.additional",
		with("validity: 1h, renewBefore: 4m"):                                           "spec.certificates.renewBefore: 4m0s is less than 5m0s",
		ref(""):                                                                         "spec.certificates.certManager.issuerRef.name",
		ref("name: A_b"):                                                                "spec.certificates.certManager.issuerRef.name",
		ref("name: a, kind: VaultIssuer"):                                               "an external issuer has a group of its own",
		ref("name: a, group: _"):                                                        "spec.certificates.certManager.issuerRef.group",
		strings.Replace(managed, "a}}", "a}, bundle: {key: x}}", 1):                     "spec.certificates.certManager.bundle",
		strings.Replace(managed, "a}}", "a}, bundle: {configMap: X}}", 1):               "spec.certificates.certManager.bundle",
		strings.Replace(managed, "a}}", "a}, bundle: {configMap: meshless-bundle}}", 1): "names that start with meshless- are ours",
		strings.Replace(managed, "issuer: CertManager", "issuer: RollingCA", 1):         "spec.certificates.certManager: has no effect with issuer RollingCA",
	} {
		if _, err := v1alpha1.Load(yaml.MustParse(config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot %v, want %q", config, err, want)
		}
	}
}

func TestManagedDefaults(t *testing.T) {
	config, err := v1alpha1.Load(yaml.MustParse(strings.Replace(managed, "a}}", "a}, bundle: {configMap: trust}}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	want := v1alpha1.CertManager{IssuerRef: v1alpha1.IssuerRef{Name: "a", Kind: "Issuer", Group: "cert-manager.io"}, Bundle: v1alpha1.ConfigMapKey{ConfigMap: "trust", Key: "ca.crt"}}
	if got := config.Spec.Certificates.CertManager; got != want || !config.Spec.UsesCertManager() {
		t.Errorf("got %+v", got)
	}
}

// The user's authorities: CA certificates, each once, of this trust domain or of none.
func TestAdditionalAuthorities(t *testing.T) {
	one, other := testca.New(t, "cluster.local"), testca.New(t, "other.example")
	nameless := testca.New(t, "cluster.local", func(c *x509.Certificate) { c.URIs = nil })
	leaf := one.Issue(t, "spiffe://cluster.local/ns/a/b/c")
	keyed := func(key crypto.PublicKey) *x509.Certificate {
		return one.Certify(t, key, "spiffe://cluster.local", func(c *x509.Certificate) {
			c.Subject.CommonName, c.IsCA, c.KeyUsage = "old", true, x509.KeyUsageCertSign
		})
	}
	for name, test := range map[string]struct{ pem, want string }{
		"good":               {string(one.PEM()) + string(nameless.PEM()), ""},
		"no PEM":             {"x", "holds text that is not PEM; want CA certificates in PEM"},
		"a key":              {string(one.PEM()) + string(testca.KeyPEM(t, leaf)), "holds a PEM block that is not a certificate"},
		"a leaf":             {string(svid.EncodeCertificates(leaf.Leaf)), "is not a CA certificate"},
		"twice":              {string(one.PEM()) + string(one.PEM()), "certificate 2 "},
		"other trust domain": {string(other.PEM()), ") names spiffe://other.example"},
		"a short RSA key":    {string(svid.EncodeCertificates(keyed(testca.PublicRSA(t, 1024)))), `certificate 1 ("CN=old") has an RSA key of 1024 bits, and those of 2048 to 4096 bits are taken: have it issued anew`},
		"an RSA key":         {string(svid.EncodeCertificates(keyed(testca.PublicRSA(t, 4096)))) + string(one.PEM()), ""},
		"a workload":         {string(testca.Below(t, leafCA(t, one)).PEM()), "names the workload spiffe://cluster.local/ns/a/b/c"},
	} {
		config := yaml.MustParse(minimal)
		if err := config.PipeE(yaml.Lookup("spec", "certificates", "ca"), yaml.SetField("additional", yaml.NewStringRNode(test.pem))); err != nil {
			t.Fatal(err)
		}
		loaded, err := v1alpha1.Load(config)
		switch {
		case test.want == "" && (err != nil || len(loaded.Spec.AdditionalAuthorities()) != 2):
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "BEGIN")):
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

// leafCA is a CA certificate that carries a workload's name.
func leafCA(t *testing.T, ca *testca.CA) tls.Certificate {
	t.Helper()
	return ca.Issue(t, "spiffe://cluster.local/ns/a/b/c", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })
}
