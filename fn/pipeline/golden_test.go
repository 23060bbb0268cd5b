package pipeline_test

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/inject"
	"github.com/meshless-dev/meshless/fn/issue"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/retarget"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

var update = flag.Bool("update", false, "write the expected files of the golden cases")

// start is when every test renders first.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a mesh's surroundings in a test: the identities of cluster and CA, and a clock.
type world struct {
	cluster, ca *age.X25519Identity
	now         time.Time
	built       bool // as in `kustomize build`: the result is not written back
	noIdentity  bool // the CA's identity is not given

	revoke, renew []string
	replaceCA     bool
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{cluster: newIdentity(t), ca: newIdentity(t), now: start}
}

func newIdentity(t testing.TB) *age.X25519Identity {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// config reads a config in which CLUSTER and CA stand for the world's recipients.
func (w *world) config(t testing.TB, text string) *v1alpha1.MutualTLS {
	t.Helper()
	text = strings.NewReplacer("CLUSTER", w.cluster.Recipient().String(), "CA_RECIPIENT", w.ca.Recipient().String()).Replace(text)
	config, err := v1alpha1.Load(yaml.MustParse(text))
	if err != nil {
		t.Fatal(err)
	}
	return config
}

const plainConfig = `
apiVersion: meshless.dev/v1alpha1
kind: MutualTLS
metadata: {name: mtls}
spec:
  sealing: {recipients: [CLUSTER]}
  certificates: {ca: {recipients: [CA_RECIPIENT]}}
`

func (w *world) run(items []*yaml.RNode, config *v1alpha1.MutualTLS) ([]*yaml.RNode, *report.Report) {
	r := &report.Report{}
	mode := pipeline.Store
	if w.built {
		mode = pipeline.Build
	}
	out := pipeline.Run(items, config, pipeline.Options{Now: w.now, Mode: mode, Actions: issue.Actions{Revoke: w.revoke, Renew: w.renew, ReplaceCA: w.replaceCA}, CAIdentity: func() ([]age.Identity, error) {
		if w.noIdentity {
			return nil, nil
		}
		return []age.Identity{w.ca}, nil
	}}, r)
	return out, r
}

// mustRun renders and fails the test on any error.
func (w *world) mustRun(t testing.TB, items []*yaml.RNode, config *v1alpha1.MutualTLS) ([]*yaml.RNode, *report.Report) {
	t.Helper()
	out, r := w.run(items, config)
	if r.Failed() {
		t.Fatalf("render failed:\n%s", strings.Join(r.Errors(), "\n"))
	}
	return out, r
}

func parse(t testing.TB, text string) []*yaml.RNode {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	return items
}

func text(t testing.TB, items []*yaml.RNode) string {
	t.Helper()
	var out bytes.Buffer
	clear := []string{kioutil.PathAnnotation, kioutil.IndexAnnotation}
	if err := (kio.ByteWriter{Writer: &out, ClearAnnotations: clear}).Write(items); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestGolden renders every case below testdata and holds the output against what is expected, and the output of every
// case that succeeds against docs/laws.md.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*/input.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no golden cases found (%v)", err)
	}
	for _, file := range cases {
		folder := filepath.Dir(file)
		t.Run(filepath.Base(folder), func(t *testing.T) { golden(t, folder) })
	}
}

func golden(t *testing.T, folder string) {
	w := newWorld(t)
	configText := plainConfig
	if data, err := os.ReadFile(filepath.Join(folder, "config.yaml")); err == nil {
		configText = string(data)
	}
	config := w.config(t, configText)
	input := readFile(t, filepath.Join(folder, "input.yaml"))
	out, r := w.run(parse(t, input), config)
	var findings bytes.Buffer
	if err := r.WriteText(&findings); err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join(folder, "findings.txt"), meaningOfNames(findings.String()))
	if r.Failed() {
		if out != nil {
			t.Error("a failed render has output")
		}
		if _, err := os.Stat(filepath.Join(folder, "expected.yaml")); err == nil {
			t.Error("the case has an expected.yaml, and the render failed")
		}
		return
	}
	compare(t, filepath.Join(folder, "expected.yaml"), w.meaning(t, out))
	checkLaws(t, w, config, input, out)
}

// checkLaws holds a successful render against laws 1 and 3 of docs/laws.md: a second render is quiet, and
// un-injection gives the input back.
func checkLaws(t *testing.T, w *world, config *v1alpha1.MutualTLS, input string, out []*yaml.RNode) {
	t.Helper()
	w.noIdentity = true // with nothing due, no identity is needed
	again, r := w.mustRun(t, out, config)
	if diff := cmp.Diff(text(t, out), text(t, again)); diff != "" {
		t.Errorf("a second render changes the output:\n%s", diff)
	}
	for _, result := range r.Results() {
		if result.Severity == "info" {
			t.Errorf("a second render says: %s", result.Message)
		}
	}
	w.now = w.now.Add(36 * time.Hour)
	if later, _ := w.mustRun(t, out, config); text(t, later) != text(t, out) {
		t.Error("a render a day and a half later changes the output with nothing due")
	}
	var stripped []*yaml.RNode
	for _, item := range out {
		if item = item.Copy(); item.GetAnnotations()[api.IdentityAnnotation] != "" {
			continue
		}
		strip(t, item, config.Spec)
		stripped = append(stripped, item)
	}
	var manifests []*yaml.RNode
	for _, item := range parse(t, input) {
		if err := item.DeAnchor(); err != nil { // an alias is written out, and stays so
			t.Fatal(err)
		}
		if item.GetAnnotations()[api.IdentityAnnotation] == "" {
			manifests = append(manifests, item)
		}
	}
	if diff := cmp.Diff(text(t, manifests), text(t, stripped)); diff != "" {
		t.Errorf("un-injection does not give the input back:\n%s", diff)
	}
}

// strip takes injections out of an item, or the items of a List.
func strip(t testing.TB, item *yaml.RNode, spec v1alpha1.Spec) {
	t.Helper()
	for _, part := range manifest.Flatten([]*yaml.RNode{item}) {
		if err := retarget.Strip(part); err != nil {
			t.Fatal(err)
		}
		templates, _ := manifest.KindsOf(spec).Templates(part)
		for _, template := range templates {
			if err := inject.Strip(part, template.Path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// meaning writes items with certificates and ciphertext replaced by what they mean, since their bytes differ in every
// run.
func (w *world) meaning(t testing.TB, items []*yaml.RNode) string {
	t.Helper()
	var out []*yaml.RNode
	for _, item := range items {
		item = item.Copy()
		switch item.GetKind() {
		case "Secret":
			w.explainSecret(t, item)
		case "ConfigMap":
			if pem, ok := item.GetDataMap()[api.BundleFile]; ok {
				set(t, item, w.explainBundle(t, pem), "data", api.BundleFile)
			}
		case v1alpha1.KindCertificateAuthority:
			w.explainAuthorities(t, item)
		}
		out = append(out, item)
	}
	return text(t, out)
}

func (w *world) explainSecret(t testing.TB, item *yaml.RNode) {
	t.Helper()
	if item.GetAnnotations()[api.IdentityAnnotation] == "" {
		return
	}
	leaf := decodeLeaf(t, item)
	set(t, item, fmt.Sprintf("<leaf of %v for %v, valid %s to %s>", leaf.URIs, leaf.DNSNames, leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339)), "data", api.LeafFile)
	key, err := svid.ParseKey(w.open(t, item, w.cluster))
	if err != nil {
		t.Fatal(err)
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		t.Fatalf("secret %s: key and certificate do not match", item.GetName())
	}
	w.explainKey(t, item)
	set(t, item, "<digest of its public key>", "metadata", "annotations", api.PublicKeyAnnotation)
	set(t, item, "<digest of the recipients>", "metadata", "annotations", api.RecipientsAnnotation)
}

// open decrypts the sealed key of a Secret.
func (w *world) open(t testing.TB, secret *yaml.RNode, identity age.Identity) []byte {
	t.Helper()
	if node.Get(secret.YNode(), seal.SOPSField) != nil {
		return openSOPS(t, secret, identity)
	}
	sealed, err := base64.StdEncoding.DecodeString(secret.GetDataMap()[api.SealedKeyFile])
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.Open(string(sealed), []age.Identity{identity})
	if err != nil {
		t.Fatalf("secret %s: the sealed key %v", secret.GetName(), err)
	}
	return key
}

func (w *world) explainBundle(t testing.TB, pem string) string {
	t.Helper()
	certificates, err := svid.ParseCertificates([]byte(pem))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range certificates {
		lines = append(lines, fmt.Sprintf("<authority of %v, valid %s to %s>", c.URIs, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339)))
	}
	return strings.Join(lines, "\n") + "\n"
}

func (w *world) explainAuthorities(t testing.TB, item *yaml.RNode) {
	t.Helper()
	state, err := v1alpha1.ParseCertificateAuthority(item)
	if err != nil {
		t.Fatal(err)
	}
	list, err := item.Pipe(yaml.Lookup("spec", "authorities"))
	if err != nil {
		t.Fatal(err)
	}
	elements, err := list.Elements()
	if err != nil {
		t.Fatal(err)
	}
	for i, element := range elements {
		set(t, element, w.explainBundle(t, state.Spec.Authorities[i].Certificate), "certificate")
		if sealed := state.Spec.Authorities[i].SealedKey; sealed != "" {
			if _, err := seal.Open(sealed, []age.Identity{w.ca}); err != nil {
				t.Fatalf("authority %d: the sealed key %v", i, err)
			}
			set(t, element, "<its key, sealed to the CA's recipients>", "sealedKey")
			set(t, element, "<digest of the recipients>", "recipients")
		}
	}
}

func set(t testing.TB, item *yaml.RNode, value string, path ...string) {
	t.Helper()
	parent, err := item.Pipe(yaml.Lookup(path[:len(path)-1]...))
	if err != nil || parent == nil {
		t.Fatalf("no %v in %s", path, item.GetName())
	}
	if err := parent.PipeE(yaml.SetField(path[len(path)-1], yaml.NewStringRNode(value))); err != nil {
		t.Fatal(err)
	}
}

var authorityName = regexp.MustCompile(`(meshless [a-z.]+) [0-9a-f]{16}`)

// meaningOfNames takes key digests out of findings.
func meaningOfNames(s string) string { return authorityName.ReplaceAllString(s, "$1 <key>") }

func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(readFile(t, file), got); diff != "" {
		t.Errorf("%s differs (-want +got); run with -update when that is right:\n%s", file, diff)
	}
}

func readFile(t testing.TB, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestSorted: kustomize sorts the keys of what it prints. A render of that changes no value, also where a template had
// neither labels nor annotations, or null in their place.
func TestSorted(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	out, _ := w.mustRun(t, parse(t, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, namespace: prod}\nspec:\n  template: {spec: {containers: [{name: c, image: i}]}}\n"+
		"---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: b, namespace: prod}\nspec:\n  template: {metadata: , spec: {volumes: , containers: [{name: c, image: i}]}}\n"), config)
	once := sortKeys(t, out)
	again, _ := w.mustRun(t, once, config)
	if diff := cmp.Diff(text(t, once), text(t, sortKeys(t, again))); diff != "" {
		t.Error(diff)
	}
}

// sortKeys is what kustomize prints.
func sortKeys(t *testing.T, items []*yaml.RNode) (sorted []*yaml.RNode) {
	t.Helper()
	for _, item := range items {
		plain, err := item.Map()
		if err != nil {
			t.Fatal(err)
		}
		text, err := yaml.Marshal(plain)
		if err != nil {
			t.Fatal(err)
		}
		sorted = append(sorted, yaml.MustParse(string(text)))
	}
	return sorted
}
