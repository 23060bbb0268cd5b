package pipeline_test

import (
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

const twoDeployments = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: prod}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: web:1}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: prod}
spec:
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec:
      containers: [{name: api, image: api:1}]
`

const oneMore = `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: late, namespace: prod}
spec:
  selector: {matchLabels: {app: late}}
  template:
    metadata: {labels: {app: late}}
    spec:
      containers: [{name: late, image: late:1}]
`

func decodeLeaf(t testing.TB, secret *yaml.RNode) *x509.Certificate {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(secret.GetDataMap()[api.LeafFile])
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := svid.ParseCertificates(data)
	if err != nil {
		t.Fatal(err)
	}
	return certificates[0]
}

// find returns the item of a kind and name.
// named tells whether an object is called so; the name of a package behind it is left out.
func named(item *yaml.RNode, name string) bool {
	pkg := item.GetAnnotations()[api.PackageAnnotation]
	return item.GetName() == name || pkg != "" && item.GetName() == name+"-"+pkg
}

func find(t testing.TB, items []*yaml.RNode, kind, name string) *yaml.RNode {
	t.Helper()
	for _, item := range items {
		if item.GetKind() == kind && named(item, name) {
			return item
		}
	}
	t.Fatalf("no %s %s", kind, name)
	return nil
}

func bundleOf(t testing.TB, items []*yaml.RNode) string {
	t.Helper()
	return find(t, items, "ConfigMap", "meshless-bundle").GetDataMap()[api.BundleFile]
}

// Law 2 of docs/laws.md: adding a workload changes no other workload's Secret and restarts no other pod.
func TestAddingAWorkloadTouchesNoOther(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	before, _ := w.mustRun(t, parse(t, twoDeployments), config)
	w.now = w.now.Add(24 * time.Hour)
	after, _ := w.mustRun(t, append(before, parse(t, oneMore)...), config)
	for _, old := range before {
		now := find(t, after, old.GetKind(), old.GetName())
		if old.MustString() != now.MustString() {
			t.Errorf("%s %s changed", old.GetKind(), old.GetName())
		}
	}
	find(t, after, "Secret", "meshless-deployment-late")
}

// Law 4 of docs/laws.md: the input of a render is never changed, whether it fails or not.
func TestInputIsNotChanged(t *testing.T) {
	w := newWorld(t)
	for _, input := range []string{twoDeployments, twoDeployments + strings.ReplaceAll(oneMore, "[{name: late", "[{ports: [{containerPort: 15001}], name: late")} {
		items := parse(t, input)
		before := text(t, items)
		w.run(items, w.config(t, plainConfig))
		if text(t, items) != before {
			t.Error("a render changed its input")
		}
	}
}

// Law 5 of docs/laws.md: state is found by its annotation. Names and namespaces were moved by hand or by a
// kustomization, comments were added.
func TestStateIsFoundByAnnotation(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	out, _ := w.mustRun(t, parse(t, twoDeployments), config)
	want := text(t, out)
	for _, item := range out {
		if item.GetAnnotations()[api.IdentityAnnotation] != "" {
			if err := item.SetName("acme-" + item.GetName() + "-suffix"); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.noIdentity = true
	again, r := w.mustRun(t, out, config)
	if got := text(t, again); got != strings.ReplaceAll(want, "name: mtls\n", "name: acme-mtls-suffix\n") {
		t.Errorf("state that was renamed was not found:\n%v", r.Results())
	}
}

// Law 6 of docs/laws.md: with the same state, the output is a function of the given time and not of the machine's
// clock.
func TestLeafLifetimeFollowsTheGivenClock(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	out, _ := w.mustRun(t, parse(t, twoDeployments), config)
	leaf := decodeLeaf(t, find(t, out, "Secret", "meshless-deployment-web"))
	if want := start.Add(720 * time.Hour); !leaf.NotAfter.Equal(want) || !leaf.NotBefore.Equal(start.Add(-10*time.Minute)) {
		t.Errorf("the leaf is valid from %s to %s, want 10 minutes before %s to %s", leaf.NotBefore, leaf.NotAfter, start, want)
	}
}

// A render that is not written back never issues: a missing leaf is an error that names the command, a due one a
// warning.
func TestBuildNeverIssues(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	w.built = true
	if _, r := w.run(parse(t, twoDeployments), config); !r.Failed() || !strings.Contains(strings.Join(r.Errors(), ""), "meshless issue") {
		t.Errorf("first build: %v", r.Errors())
	}
	w.built = false
	issued, _ := w.mustRun(t, parse(t, twoDeployments), config)
	w.built = true
	withoutCA := withoutKind(issued, "CertificateAuthority")
	built, _ := w.mustRun(t, withoutCA, config)
	if text(t, built) != text(t, withoutCA) {
		t.Error("a build changes what was issued")
	}
	w.now = start.Add(400 * time.Hour) // inside the renewal window
	due, r := w.mustRun(t, withoutCA, config)
	if text(t, due) != text(t, withoutCA) {
		t.Error("a build with a due leaf changes the output")
	}
	if len(r.Results()) != 2 || r.Results()[0].Severity != "warning" {
		t.Errorf("a build with two due leaves says %v", r.Results())
	}
	w.now = start.Add(721 * time.Hour)
	if _, r := w.run(withoutCA, config); !r.Failed() || !strings.Contains(r.Errors()[0], "expired") {
		t.Errorf("a build with an expired leaf: %v", r.Errors())
	}
	w.now = start
	if _, r := w.run(append(withoutCA, parse(t, oneMore)...), config); !r.Failed() || len(r.Errors()) != 1 || !strings.Contains(r.Errors()[0], "deployment prod/late") {
		t.Errorf("a build with a new workload: %v", r.Errors())
	}
}

func withoutKind(items []*yaml.RNode, kind string) []*yaml.RNode {
	var out []*yaml.RNode
	for _, item := range items {
		if item.GetKind() != kind {
			out = append(out, item.Copy())
		}
	}
	return out
}

// A renewal needs the CA's identity, replaces due leaves only, and touches no bundle.
func TestRenewal(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	first, _ := w.mustRun(t, parse(t, twoDeployments), config)
	w.now = start.Add(200 * time.Hour)
	second, _ := w.mustRun(t, append(first, parse(t, oneMore)...), config)
	w.now = start.Add(400 * time.Hour) // two are due, the late one is not
	w.noIdentity = true
	kept, r := w.mustRun(t, second, config)
	if text(t, kept) != text(t, second) || len(r.Results()) != 2 {
		t.Errorf("without an identity, due leaves are kept with a warning each: %v", r.Results())
	}
	w.noIdentity = false
	third, _ := w.mustRun(t, second, config)
	if bundleOf(t, third) != bundleOf(t, second) {
		t.Error("a renewal changed the bundle")
	}
	for name, renewed := range map[string]bool{"web": true, "api": true, "late": false} {
		name = "meshless-deployment-" + name
		old, now := find(t, second, "Secret", name), find(t, third, "Secret", name)
		if changed := old.MustString() != now.MustString(); changed != renewed {
			t.Errorf("%s: changed %v, want %v", name, changed, renewed)
		}
	}
	w.ca = newIdentity(t)
	if _, r := w.run(second, w.config(t, strings.ReplaceAll(plainConfig, "CA_RECIPIENT", newIdentity(t).Recipient().String()))); !r.Failed() || !strings.Contains(strings.Join(r.Errors(), ""), "sealed to none of the identities") {
		t.Errorf("with a wrong identity: %v", r.Errors())
	}
}

// Over three signing periods every leaf verifies under the bundle before and after each render, and a CA is in the
// bundle a period before it signs.
func TestRollingCA(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	items, _ := w.mustRun(t, parse(t, twoDeployments), config)
	published := map[string]time.Time{}
	signers := map[string]bool{}
	for day := range 3 * 90 {
		w.now = start.Add(time.Duration(day) * 24 * time.Hour)
		old := bundleOf(t, items)
		items, _ = w.mustRun(t, items, config)
		for _, c := range authorities(t, bundleOf(t, items)) {
			if _, ok := published[string(c.SubjectKeyId)]; !ok {
				published[string(c.SubjectKeyId)] = w.now
			}
		}
		leaf := decodeLeaf(t, find(t, items, "Secret", "meshless-deployment-web"))
		for _, bundle := range []string{old, bundleOf(t, items)} { // a peer may not have synced yet
			b, err := svid.NewBundle(spiffeid.RequireTrustDomainFromString("cluster.local"), authorities(t, bundle), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Verify([]*x509.Certificate{leaf}, x509.ExtKeyUsageServerAuth, w.now); err != nil {
				t.Fatalf("day %d: %v", day, err)
			}
		}
		signer := string(leaf.AuthorityKeyId)
		if !signers[signer] && len(signers) > 0 && w.now.Sub(published[signer]) < 90*24*time.Hour {
			t.Errorf("day %d: an authority signs %s after it was published", day, w.now.Sub(published[signer]))
		}
		signers[signer] = true
	}
	if len(signers) != 3 {
		t.Errorf("%d authorities signed in three periods", len(signers))
	}
	if n := len(authorities(t, bundleOf(t, items))); n > 3 {
		t.Errorf("the bundle holds %d authorities: retired ones are not pruned", n)
	}
}

func authorities(t testing.TB, pem string) []*x509.Certificate {
	t.Helper()
	certificates, err := svid.ParseCertificates([]byte(pem))
	if err != nil {
		t.Fatal(err)
	}
	return certificates
}

// Injection is undone on request: the manifest is what it was, and the Secret goes.
func TestDisablingAnInjectedWorkload(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	out, _ := w.mustRun(t, parse(t, twoDeployments), config)
	disable := func(items []*yaml.RNode) []*yaml.RNode {
		template, err := find(t, items, "Deployment", "web").Pipe(yaml.Lookup("spec", "template"))
		if err != nil {
			t.Fatal(err)
		}
		if err := template.PipeE(yaml.SetAnnotation(api.InjectAnnotation, "disabled")); err != nil {
			t.Fatal(err)
		}
		return items
	}
	again, r := w.mustRun(t, disable(out), config)
	want := find(t, disable(parse(t, twoDeployments)), "Deployment", "web").MustString()
	if got := find(t, again, "Deployment", "web").MustString(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, item := range again {
		if item.GetName() == "meshless-deployment-web" {
			t.Error("the Secret of the workload is still there")
		}
	}
	if said := r.Results().Error(); !strings.Contains(said, "removed") {
		t.Errorf("nothing says that the Secret was removed: %s", said)
	}
}

// Hidden state must not be mistaken for a first render: a new CA would cut every pod off.
func TestInjectedWorkloadWithoutState(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	out, _ := w.mustRun(t, parse(t, twoDeployments), config)
	if _, r := w.run([]*yaml.RNode{find(t, out, "Deployment", "web")}, config); !r.Failed() || !strings.Contains(r.Errors()[0], "without selectors") {
		t.Errorf("a render that sees no state: %v", r.Errors())
	}
	for name, part := range map[string][]*yaml.RNode{"nothing due": withoutKind(out, "CertificateAuthority"), "a new workload": append(withoutKind(out, "CertificateAuthority"), parse(t, oneMore)...)} {
		if _, r := w.run(part, config); !r.Failed() || !strings.Contains(r.Errors()[0], "Restore it from Git") {
			t.Errorf("a lost CA, with %s, is not noticed: %v", name, r.Errors())
		}
	}
}

// What hostile or careless hands do to the state.
func TestBrokenState(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	data := func(items []*yaml.RNode, kind, name, key, value string) {
		if err := find(t, items, kind, name).PipeE(yaml.Lookup("data"), yaml.SetField(key, yaml.NewStringRNode(value))); err != nil {
			t.Fatal(err)
		}
	}
	encode := base64.StdEncoding.EncodeToString
	foreign := func() []*yaml.RNode { // the state of another branch, sealed to the same recipients
		out, _ := w.mustRun(t, parse(t, twoDeployments), config)
		return out
	}
	for name, test := range map[string]struct {
		damage func(items []*yaml.RNode) []*yaml.RNode
		want   string // an error with it; "" for a leaf that is issued anew
	}{
		"no base64": {func(i []*yaml.RNode) []*yaml.RNode {
			data(i, "Secret", "meshless-deployment-web", "tls.crt", "%")
			return i
		}, "is not base64"},
		"no certificate": {func(i []*yaml.RNode) []*yaml.RNode {
			data(i, "Secret", "meshless-deployment-web", "tls.crt", encode([]byte("x")))
			return i
		}, ""},
		"no age file": {func(i []*yaml.RNode) []*yaml.RNode {
			data(i, "Secret", "meshless-deployment-web", "tls.key.age", encode([]byte("x")))
			return i
		}, ""},
		"swapped certificates": {func(i []*yaml.RNode) []*yaml.RNode {
			data(i, "Secret", "meshless-deployment-web", "tls.crt", find(t, i, "Secret", "meshless-deployment-api").GetDataMap()["tls.crt"])
			return i
		}, ""},
		"key in the clear": {func(i []*yaml.RNode) []*yaml.RNode {
			data(i, "Secret", "meshless-deployment-web", "tls.key", encode([]byte("-----BEGIN PRIVATE KEY-----")))
			return i
		}, "holds a private key in the clear"},
		"bundle without CA": {func(i []*yaml.RNode) []*yaml.RNode { data(i, "ConfigMap", "meshless-bundle", "ca.crt", "x"); return i }, "restore it from Git"},
		"bundle with a leaf": {func(i []*yaml.RNode) []*yaml.RNode {
			leaf, err := base64.StdEncoding.DecodeString(find(t, i, "Secret", "meshless-deployment-api").GetDataMap()["tls.crt"])
			if err != nil {
				t.Fatal(err)
			}
			data(i, "ConfigMap", "meshless-bundle", "ca.crt", string(leaf))
			return i
		}, "is not a CA certificate"},
		"two Secrets": {func(i []*yaml.RNode) []*yaml.RNode {
			twin := find(t, i, "Secret", "meshless-deployment-web").Copy()
			if err := twin.SetName("twin"); err != nil {
				t.Fatal(err)
			}
			return append(i, twin)
		}, "is also the identity of secret"},
		"planted CA": {func(i []*yaml.RNode) []*yaml.RNode {
			planted := find(t, foreign(), "CertificateAuthority", "mtls")
			return append([]*yaml.RNode{planted}, i...)
		}, "is a second CertificateAuthority"},
		"another CA": {func(i []*yaml.RNode) []*yaml.RNode {
			return append(withoutKind(i, "CertificateAuthority"), find(t, foreign(), "CertificateAuthority", "mtls"))
		}, "which the bundles trust: object and bundles are of different states"},
		"an age identity": {func(i []*yaml.RNode) []*yaml.RNode {
			return append(i, parse(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: meshless-identity, namespace: prod}\nstringData: {identity.txt: "+w.cluster.String()+"}")...)
		}, "holds an age identity"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := w.mustRun(t, parse(t, twoDeployments), config)
			out, r := w.run(test.damage(out), config)
			switch {
			case test.want == "" && r.Failed():
				t.Errorf("failed: %v", r.Errors())
			case test.want == "":
				if got := decodeLeaf(t, find(t, out, "Secret", "meshless-deployment-web")).URIs[0].Path; got != "/ns/prod/deployment/web" {
					t.Errorf("the new leaf is of %s", got)
				}
			case !strings.Contains(strings.Join(r.Errors(), "\n"), test.want):
				t.Errorf("got %q, want %q", r.Errors(), test.want)
			}
			for _, message := range r.Errors() {
				if strings.Contains(message, w.cluster.String()[20:]) {
					t.Error("an error quotes a key")
				}
			}
		})
	}
}

// What gets into a certificate is a name that Kubernetes would accept, and no name that means another Service
// elsewhere.
func TestCertificatesNameOnlyTheirOwn(t *testing.T) {
	const service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: prod}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n"
	w := newWorld(t)
	config := w.config(t, plainConfig)
	for _, name := range []string{"db.other.svc.cluster.local", `"*"`, "www.example.com", "UPPER", "a_b"} {
		if _, r := w.run(parse(t, twoDeployments+strings.ReplaceAll(service, "%s", name)), config); !r.Failed() {
			t.Errorf("a Service named %s is accepted", name)
		}
	}
	out, _ := w.mustRun(t, parse(t, twoDeployments+strings.ReplaceAll(service, "%s", "db")), config)
	if got := decodeLeaf(t, find(t, out, "Secret", "meshless-deployment-web")).DNSNames; slices.Contains(got, "db") || !slices.Contains(got, "db.prod") {
		t.Errorf("the leaf is for %v", got)
	}
	two := strings.ReplaceAll(service, "%s", "a") + strings.ReplaceAll(service, "%s", "b")
	if _, r := w.run(parse(t, twoDeployments+strings.ReplaceAll(two, "spec: {", "spec: {clusterIP: 10.96.7.7, ")), config); !r.Failed() || !strings.Contains(r.Errors()[0], "claims 10.96.7.7") {
		t.Errorf("two Services with one clusterIP: %v", r.Errors())
	}
}

// A kind that the config no longer names is taken out of the mesh whole: sidecar, probes and Secret.
func TestForgottenKindIsTakenOut(t *testing.T) {
	const machine = `
apiVersion: example.org/v1
kind: Machine
metadata: {name: m, namespace: prod}
spec:
  pods:
    template:
      metadata:
        labels: {app: m}
      spec:
        containers:
        - {name: c, image: i}
`
	w := newWorld(t)
	with := w.config(t, plainConfig+"  workloads: {templates: [{group: example.org, kind: Machine, path: spec.pods.template}]}\n")
	out, _ := w.mustRun(t, parse(t, twoDeployments+"---"+machine), with)
	if !strings.Contains(find(t, out, "Machine", "m").MustString(), api.ProxyName) {
		t.Fatal("the kind that the config names was not injected")
	}
	again, r := w.mustRun(t, out, w.config(t, plainConfig))
	if got, want := find(t, again, "Machine", "m").MustString(), parse(t, machine)[0].MustString(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if said := r.Results().Error(); !strings.Contains(said, "is no kind that meshless knows") || !strings.Contains(said, "removed") {
		t.Errorf("said %s", said)
	}
}

// Empty lists and mappings, with comments and without, do not move or lose anything.
func TestEmptyPartsOfATemplate(t *testing.T) {
	for name, tail := range map[string]string{
		"commented list": "      # none yet\n      initContainers: []\n", "list": "      volumes: []\n", "both": "      volumes: [] # none\n      initContainers: []\n",
		"null": "      volumes:\n", "first": "      initContainers: []\n      dnsPolicy: ClusterFirst\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			config := w.config(t, plainConfig)
			input := "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: a, namespace: prod}\nspec:\n  template:\n    metadata: {labels: {app: a}}\n    spec:\n      containers:\n      - {name: c, image: i}\n" + tail
			out, _ := w.mustRun(t, parse(t, input), config)
			for range 2 {
				again, _ := w.mustRun(t, out, config)
				if text(t, again) != text(t, out) {
					t.Fatalf("a further render changes\n%s\ninto\n%s", text(t, out), text(t, again))
				}
			}
			if strings.Contains(tail, "#") && !strings.Contains(text(t, out), "# none") {
				t.Error("the comment is lost")
			}
		})
	}
}
