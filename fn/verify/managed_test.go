package verify_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

// managed is what the function makes of the manifests where cert-manager issues, with more of the config.
func managed(t *testing.T, input, more string) string {
	t.Helper()
	config, err := v1alpha1.Load(yaml.MustParse("apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: c}\n" +
		"spec: {certificates: {issuer: CertManager, certManager: {issuerRef: {name: ca, kind: ClusterIssuer}" + more + "}}}"))
	if err != nil {
		t.Fatal(err)
	}
	r := &report.Report{}
	out := pipeline.Run(parse(t, input), config, pipeline.Options{Now: now}, r)
	if r.Failed() {
		t.Fatal(r.Errors())
	}
	text, err := kio.StringAll(out)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Where cert-manager issues, each way in which Certificates and volumes can be wrong is noticed.
func TestCheckManaged(t *testing.T) {
	good, bundled := managed(t, manifests, ""), managed(t, manifests, ", bundle: {configMap: trust}")
	own := managed(t, strings.Replace(manifests, "labels: {app: web}\n    spec", "labels: {app: web}\n      annotations: {meshless.dev/tls-secret: mine}\n    spec", 1), "")
	edit := func(text, old, with string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("the rendered manifests hold no %q", old)
		}
		return strings.Replace(text, old, with, 1)
	}
	const certificate = "apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata:\n  name: meshless-deployment-web\n"
	const ofSecret = "              - key: ca.crt\n                path: ca.crt\n              name: meshless-tls-deployment-web\n"
	for name, test := range map[string]struct{ text, want string }{
		"untouched":           {good, ""},
		"with a bundle":       {bundled, ""},
		"own Secret":          {own, ""},
		"other identity":      {edit(good, "  - spiffe://cluster.local/ns/prod/deployment/web", "  - spiffe://cluster.local/ns/prod/deployment/admin"), "spec.uris: must hold spiffe://cluster.local/ns/prod/deployment/web and nothing else"},
		"second identity":     {edit(good, "  uris:\n", "  uris:\n  - spiffe://cluster.local/ns/prod/deployment/admin\n"), "and nothing else"},
		"a CA":                {edit(good, "isCA: false", "isCA: true"), "whoever has the key could mint any identity"},
		"may sign":            {edit(good, "  - client auth\n", "  - client auth\n  - cert sign\n"), "must be digital signature, server auth, client auth"},
		"no client":           {edit(good, "  - client auth\n", ""), "must be digital signature, server auth, client auth"},
		"key form":            {edit(good, "PKCS8", "PKCS1"), "must have encoding PKCS8"},
		"key kept":            {edit(good, "rotationPolicy: Always", "rotationPolicy: Never"), "rotationPolicy Always"},
		"unreadable":          {edit(good, "isCA: false", "isCA: [x]"), "cannot be read"},
		"one Secret for two":  {edit(good, "secretName: meshless-tls-deployment-web", "secretName: meshless-tls-job-once") + strings.Replace("---\n"+certificate+"  namespace: ops\n  annotations: {meshless.dev/identity: 'spiffe://cluster.local/ns/ops/x/y'}\nspec: {secretName: meshless-tls-job-once, uris: ['spiffe://cluster.local/ns/ops/x/y'], usages: [digital signature, server auth, client auth], privateKey: {encoding: PKCS8, rotationPolicy: Always}}\n", "web", "y", 1), `is "meshless-tls-job-once", which certificate ops/`},
		"another issuer":      {edit(good, "  issuerRef:\n    name: ", "  issuerRef:\n    name: private-"), "names another issuer"},
		"no Certificate":      {edit(good, certificate, strings.Replace(certificate, "cert-manager.io", "example.org", 1)), "neither a Certificate of cert-manager in the input writes it, nor does the annotation"},
		"other Secret":        {edit(good, "              name: meshless-tls-deployment-web", "              name: stolen"), `mounts secret "stolen" with tls.key: neither`},
		"other's Certificate": {edit(good, "secretName: meshless-tls-deployment-web", "secretName: other"), "neither a Certificate"},
		"orphaned":            {good + "---\n" + strings.Replace(certificate, "web", "gone", 1) + "  annotations: {meshless.dev/identity: 'spiffe://cluster.local/ns/prod/a/b'}\nspec: {secretName: c, uris: ['spiffe://cluster.local/ns/prod/a/b'], usages: [digital signature, server auth, client auth], privateKey: {encoding: PKCS8, rotationPolicy: Always}}\n", "is the Certificate of spiffe://cluster.local/ns/prod/a/b, and no injected workload"},
		"key of another":      {edit(good, "path: tls.key\n", "path: other.key\n"), "from one Secret"},
		"bundle of another":   {edit(good, ofSecret, "              name: meshless-tls-deployment-web\n          - secret:\n              items: [{key: ca.crt, path: ca.crt}]\n              name: planted\n"), "spec.template.spec.volumes[0].projected.sources[0].secret.items[2]: is missing, and must be"},
		"bundle of ours":      {edit(bundled, "name: trust", "name: meshless-bundle-awtrt"), "must take ca.crt from the Secret that holds its leaf"},
		"two bundles":         {edit(bundled, "name: trust", "name: planted"), "they trust different authorities"},
		"annotation gone":     {edit(own, "meshless.dev/tls-secret: mine", "a: b"), "neither a Certificate"},
		"annotation changed":  {edit(own, "meshless.dev/tls-secret: mine", "meshless.dev/tls-secret: yours"), `mounts secret "mine" with tls.key`},
	} {
		t.Run(name, func(t *testing.T) {
			r := &report.Report{}
			verify.Check(parse(t, test.text), verify.Options{Now: now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
			said := strings.Join(r.Errors(), "\n")
			if (test.want == "") != (said == "") || !strings.Contains(said, test.want) {
				t.Errorf("got %q, want %q", said, test.want)
			}
		})
	}
}

// Leaves that only the cluster holds are listed with who puts them there.
func TestManagedLeaves(t *testing.T) {
	text := managed(t, strings.Replace(manifests, "annotations: {a: b}", "annotations: {meshless.dev/tls-secret: mine}", 1), "")
	r := &report.Report{}
	leaves := verify.Check(parse(t, text), verify.Options{Now: now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r).Leaves
	got := map[string]string{}
	for _, leaf := range leaves {
		if leaf.Certificate != nil {
			t.Errorf("%s has a certificate in the manifests", leaf.Identity)
		}
		got[leaf.Identity] = leaf.IssuedBy + " " + leaf.Secret.String()
	}
	for id, want := range map[string]string{
		"spiffe://cluster.local/ns/prod/deployment/web": "ClusterIssuer/ca certificate prod/meshless-deployment-web",
		"spiffe://cluster.local/ns/ops/job/once":        "the user secret ops/mine",
	} {
		if got[id] != want {
			t.Errorf("%s: got %q, want %q", id, got[id], want)
		}
	}
}
