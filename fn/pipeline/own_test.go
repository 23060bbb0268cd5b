package pipeline_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

// corporate is an authority of a user's, above intermediates and without a SPIFFE ID.
func corporate(t *testing.T, changes ...func(*x509.Certificate)) *testca.CA {
	t.Helper()
	return testca.New(t, "cluster.local", append(changes, func(c *x509.Certificate) { c.URIs, c.MaxPathLenZero = nil, false })...)
}

// withAdditional is the plain config with authorities of the user's. Certificates of testca are valid now, so the
// world's clock is the machine's.
func withAdditional(t *testing.T, w *world, authorities ...*testca.CA) *v1alpha1.MutualTLS {
	t.Helper()
	w.now = time.Now()
	config := w.config(t, plainConfig)
	for _, ca := range authorities {
		config.Spec.Certificates.CA.Additional += string(ca.PEM())
	}
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	return config
}

func bundleSize(t *testing.T, items []*yaml.RNode) int {
	t.Helper()
	certificates, err := svid.ParseCertificates([]byte(bundleOf(t, items)))
	if err != nil {
		t.Fatal(err)
	}
	return len(certificates)
}

// The user's authorities are in the bundles beside the rolling ones, come and go with the config, and never change who
// signs.
func TestAdditionalAuthorities(t *testing.T) {
	w := newWorld(t)
	one, other := corporate(t), corporate(t)
	config := withAdditional(t, w, one)
	first, _ := w.mustRun(t, parse(t, twoDeployments), config)
	if n := bundleSize(t, first); n != 3 {
		t.Fatalf("the bundle holds %d authorities, want Active, Next and the user's", n)
	}
	w.noIdentity = true
	if again, r := w.mustRun(t, first, config); text(t, again) != text(t, first) || len(r.Results()) > 0 {
		t.Errorf("a second render is not quiet: %v", r.Results())
	}
	leaf := find(t, first, "Secret", "meshless-deployment-web").MustString()
	for name, test := range map[string]struct {
		authorities []*testca.CA
		size        int
	}{"another": {[]*testca.CA{other}, 3}, "both": {[]*testca.CA{one, other}, 4}, "none": {nil, 2}} {
		changed, _ := w.mustRun(t, first, withAdditional(t, w, test.authorities...))
		if n := bundleSize(t, changed); n != test.size {
			t.Errorf("%s: the bundle holds %d authorities, want %d", name, n, test.size)
		}
		if find(t, changed, "Secret", "meshless-deployment-web").MustString() != leaf {
			t.Errorf("%s: a leaf was issued anew", name)
		}
		if again, r := w.mustRun(t, changed, withAdditional(t, w, test.authorities...)); text(t, again) != text(t, changed) || len(r.Results()) > 0 {
			t.Errorf("%s: a second render is not quiet: %v", name, r.Results())
		}
		w.built = true
		for _, state := range [][]*yaml.RNode{first, withoutKind(first, "CertificateAuthority")} {
			if _, r := w.run(state, withAdditional(t, w, test.authorities...)); !strings.Contains(strings.Join(r.Errors(), ""), "does not hold the authorities that spec.certificates.ca.additional adds") {
				t.Errorf("%s: a build that may not write the bundle says %v", name, r.Errors())
			}
		}
		if built, _ := w.mustRun(t, withoutKind(first, "CertificateAuthority"), config); bundleOf(t, built) != bundleOf(t, first) {
			t.Error("a build changes the bundle")
		}
		w.built = false
	}
}

func TestAdditionalAuthorityRefused(t *testing.T) {
	w := newWorld(t)
	first, _ := w.mustRun(t, parse(t, twoDeployments), withAdditional(t, w))
	config := withAdditional(t, w)
	config.Spec.Certificates.CA.Additional = bundleOf(t, first)
	if _, r := w.run(first, config); !strings.Contains(strings.Join(r.Errors(), ""), "is an authority of this mesh already") {
		t.Errorf("our own authority: %v", r.Errors())
	}
	ending := corporate(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) })
	config = withAdditional(t, w, ending)
	w.mustRun(t, first, config)
	w.now = w.now.Add(2 * time.Hour)
	if _, r := w.run(first, config); !strings.Contains(strings.Join(r.Errors(), ""), "spec.certificates.ca.additional: certificate 1") {
		t.Errorf("an expired authority: %v", r.Errors())
	}
}

// An authority that an older release took, and this one refuses, can be taken out.
func TestAdditionalAuthorityLeaves(t *testing.T) {
	w := newWorld(t)
	one := corporate(t)
	first, _ := w.mustRun(t, parse(t, twoDeployments), withAdditional(t, w, one))
	weak := one.Certify(t, testca.PublicRSA(t, 1024), "spiffe://cluster.local", func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.KeyUsage = "old", true, x509.KeyUsageCertSign
	})
	changed := 0
	for _, item := range first {
		bundle := item.GetDataMap()[api.BundleFile]
		if !strings.Contains(bundle, string(one.PEM())) {
			continue
		}
		changed++
		set(t, item, strings.Replace(bundle, string(one.PEM()), string(svid.EncodeCertificates(weak)), 1), "data", api.BundleFile)
		annotations := item.GetAnnotations()
		annotations[api.AdditionalAnnotation] = svid.Fingerprint(weak)
		if err := item.SetAnnotations(annotations); err != nil {
			t.Fatal(err)
		}
	}
	if changed == 0 {
		t.Fatal("no bundle holds the authority")
	}
	after, _ := w.mustRun(t, first, withAdditional(t, w))
	if n := bundleSize(t, after); n != 2 {
		t.Errorf("the bundle holds %d authorities, want Active and Next", n)
	}
}

const legacy = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: legacy, namespace: prod}
spec:
  selector: {matchLabels: {app: legacy}}
  template:
    metadata: {labels: {app: legacy}, annotations: {meshless.dev/tls-secret: legacy-tls}}
    spec:
      containers: [{name: legacy, image: legacy:1}]
`

const legacyID = "spiffe://cluster.local/ns/prod/deployment/legacy"

// ownSecret is the user's Secret as a manifest; an empty value is left out.
func ownSecret(t *testing.T, files map[string]string) []*yaml.RNode {
	t.Helper()
	secret := yaml.MustParse("apiVersion: v1\nkind: Secret\nmetadata: {name: legacy-tls, namespace: prod}\ntype: kubernetes.io/tls\nstringData: {}\n")
	for key, value := range files {
		if value != "" {
			set(t, secret, value, "stringData", key)
		}
	}
	return []*yaml.RNode{secret}
}

// A workload that brings its Secret gets none, and a Secret among the manifests is judged as the proxy will do it.
func TestOwnSecret(t *testing.T) {
	w := newWorld(t)
	ca := corporate(t)
	config := withAdditional(t, w, ca)
	asCA := func(c *x509.Certificate) {
		c.URIs, c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.Subject.CommonName = nil, true, x509.KeyUsageCertSign, nil, "intermediate"
	}
	middle := ca.Issue(t, "spiffe://cluster.local", asCA)
	leaf := testca.Below(t, middle).Issue(t, legacyID)
	wrong, stranger := ca.Issue(t, "spiffe://cluster.local/ns/prod/deployment/web"), corporate(t).Issue(t, legacyID)
	old := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}})
	of := func(chain ...tls.Certificate) string {
		var text string
		for _, c := range chain {
			text += string(svid.EncodeCertificates(c.Leaf))
		}
		return text
	}
	key := func(c tls.Certificate) string { return string(testca.KeyPEM(t, c)) }
	for name, test := range map[string]struct{ leaf, key, want string }{
		"good, with its intermediate": {of(leaf, middle), key(leaf), ""},
		"opened later":                {"ENC[AES256_GCM,data:x]", "ENC[AES256_GCM,data:y]", ""},
		"without its intermediate":    {of(leaf), key(leaf), "are its authorities in spec.certificates.ca.additional?"},
		"of a stranger":               {of(stranger), key(stranger), "are its authorities in spec.certificates.ca.additional?"},
		"a short RSA key":             {string(svid.EncodeCertificates(testca.Below(t, middle).Certify(t, testca.PublicRSA(t, 1024), legacyID))) + of(middle), key(leaf), "data[tls.crt]: has an RSA key of 1024 bits"},
		"another certificate between": {of(leaf, wrong, middle), key(leaf), "certificate 2 of the chain is not the issuer of certificate 1"},
		"another workload's":          {of(wrong), key(wrong), "must have one URI name, the workload's identity " + legacyID},
		"another key":                 {of(leaf, middle), key(wrong), "data[tls.key]: is the key of another certificate"},
		"a key in another form":       {of(leaf, middle), string(old), "openssl pkcs8 -topk8"},
		"no key":                      {of(leaf, middle), "", "data[tls.key]: is missing, and deployment prod/legacy takes it from there"},
		"no certificate":              {"", key(leaf), "data[tls.crt]: is missing"},
		"a broken certificate":        {strings.Replace(of(leaf), "MII", "MXX", 1), key(leaf), "data[tls.crt]: holds a broken"},
	} {
		t.Run(name, func(t *testing.T) {
			items := append(parse(t, twoDeployments+"---"+legacy), ownSecret(t, map[string]string{api.LeafFile: test.leaf, api.PlainKeyFile: test.key})...)
			out, r := w.run(items, config)
			if test.want != "" {
				if !strings.Contains(strings.Join(r.Errors(), "\n"), test.want) {
					t.Errorf("got %v, want %q", r.Errors(), test.want)
				}
				return
			}
			if r.Failed() {
				t.Fatal(r.Errors())
			}
			for _, item := range out {
				if item.GetAnnotations()[api.IdentityAnnotation] == legacyID {
					t.Errorf("there is a %s for a workload that brings its own", item.GetKind())
				}
			}
		})
	}
}

// Taking up an own Secret drops the issued one, giving it up issues again, and neither touches another workload.
func TestOwnSecretComesAndGoes(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	issued, _ := w.mustRun(t, parse(t, twoDeployments+"---"+strings.Replace(legacy, "meshless.dev/tls-secret: legacy-tls", "a: b", 1)), config)
	untouched := decodeLeaf(t, find(t, issued, "Secret", "meshless-deployment-web"))
	own, _ := w.mustRun(t, parse(t, strings.Replace(text(t, issued), "a: b", "meshless.dev/tls-secret: legacy-tls", 1)), config)
	if strings.Contains(text(t, own), "meshless-deployment-legacy") {
		t.Error("the issued Secret is left")
	}
	w.renew = []string{"deployment/legacy"}
	if _, r := w.run(own, config); !strings.Contains(strings.Join(r.Errors(), ""), `its certificate is that of secret "legacy-tls"`) {
		t.Errorf("--renew of it: %v", r.Errors())
	}
	w.renew = nil
	back, _ := w.mustRun(t, parse(t, strings.Replace(text(t, own), "meshless.dev/tls-secret: legacy-tls", "a: b", 1)), config)
	find(t, back, "Secret", "meshless-deployment-legacy")
	for _, items := range [][]*yaml.RNode{own, back} {
		if !decodeLeaf(t, find(t, items, "Secret", "meshless-deployment-web")).Equal(untouched) {
			t.Error("another workload's certificate changed")
		}
	}
}

// The steps of "Changing the issuer" in docs/certificates.md: with the other CA in the bundles, pods of before and
// after the change accept each other; without, they do not.
func TestChangingTheIssuer(t *testing.T) {
	w := newWorld(t)
	other := corporate(t)
	theirs := other.Issue(t, "spiffe://cluster.local/ns/prod/deployment/api").Leaf
	for _, prepared := range []bool{true, false} {
		config := withAdditional(t, w)
		if prepared {
			config = withAdditional(t, w, other)
		}
		before, _ := w.mustRun(t, parse(t, twoDeployments), config)
		certificates, err := svid.ParseCertificates([]byte(bundleOf(t, before)))
		if err != nil {
			t.Fatal(err)
		}
		// of the pods before, and the ConfigMap of those after
		bundle, err := svid.NewBundle(spiffeid.RequireTrustDomainFromString("cluster.local"), certificates, nil)
		if err != nil {
			t.Fatal(err)
		}
		ours := decodeLeaf(t, find(t, before, "Secret", "meshless-deployment-web"))
		if _, err := bundle.VerifyLeaf(ours, w.now); err != nil {
			t.Errorf("a leaf of before is refused: %v", err)
		}
		if _, err := bundle.VerifyLeaf(theirs, w.now); (err == nil) != prepared {
			t.Errorf("prepared is %v, and a leaf of after: %v", prepared, err)
		}
	}
}
