package meshdiff_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/meshdiff"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
)

const configText = `
apiVersion: meshless.dev/v1alpha1
kind: MutualTLS
metadata: {name: mtls}
spec:
  sealing: {recipients: [RECIPIENT]}
  certificates: {ca: {recipients: [CA_RECIPIENT]}}
  inbound: {mode: Strict}
  outbound: {unknown: Deny}
  authorization:
    mode: Enforce
    default: Deny
    rules: [{to: {name: web}, ports: [8080, 9000], from: [{name: api}]}]
`

const inputText = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: prod}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
      annotations: {WEB: x}
    spec: {containers: [{name: web, image: web:1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: prod}
spec:
  selector: {matchLabels: {app: api}}
  template:
    metadata:
      labels: {app: api}
      annotations: {API: x}
    spec: {containers: [{name: api, image: api:1}]}
`

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// mesh renders the same package again and again, as a folder in Git is rendered.
type mesh struct {
	t      *testing.T
	config string
	state  []*yaml.RNode // of the first render
}

func newMesh(t *testing.T) *mesh {
	recipient := func() string {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		return identity.Recipient().String()
	}
	m := &mesh{t: t, config: strings.NewReplacer("CA_RECIPIENT", recipient(), "RECIPIENT", recipient()).Replace(configText)}
	m.state = slices.DeleteFunc(m.render(inputText, m.config), func(item *yaml.RNode) bool {
		return item.GetKind() == "Deployment" || item.GetName() == "web"
	})
	return m
}

func (m *mesh) render(input, config string) []*yaml.RNode {
	m.t.Helper()
	loaded, err := v1alpha1.Load(yaml.MustParse(config))
	if err != nil {
		m.t.Fatal(err)
	}
	items, err := (&kio.ByteReader{Reader: strings.NewReader(input), OmitReaderAnnotations: true}).Read()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, item := range m.state {
		items = append(items, item.Copy())
	}
	r := &report.Report{}
	out := pipeline.Run(items, loaded, pipeline.Options{Now: now, Mode: pipeline.Store}, r)
	if r.Failed() {
		m.t.Fatal(r.Errors())
	}
	return out
}

func (m *mesh) side(input, config string, images ...string) *meshdiff.Side {
	m.t.Helper()
	side, err := meshdiff.Read(m.render(input, config), manifest.KindsOf(v1alpha1.Spec{}), images, &report.Report{})
	if err != nil {
		m.t.Fatal(err)
	}
	return side
}

func lines(changes []meshdiff.Change) (out []string) {
	for _, c := range changes {
		out = append(out, string(c.Mark)+" "+c.Text)
	}
	return out
}

// change is an edit of one of the texts, what a reviewer is told of it, and of its revert.
type change struct {
	edit         []string // old and new, in the input and the config
	want, revert []string
}

var changes = map[string]change{
	"nothing of the mesh": {edit: []string{"web:1", "web:2"}},
	"inbound mode": {edit: []string{"mode: Strict", "mode: Permissive"},
		want:   []string{"! namespace prod: inbound mode Strict → Permissive"},
		revert: []string{"~ namespace prod: inbound mode Permissive → Strict"}},
	"inbound mode, but for a port": {edit: []string{"mode: Strict", "mode: Permissive", "WEB: x", `meshless.dev/strict-ports: "8080", meshless.dev/exclude-inbound-ports: "9000"`},
		want: []string{"! namespace prod: inbound mode Strict → Permissive",
			"! deployment prod/web: port 9000: Strict → excluded (no proxy, plaintext)"},
		revert: []string{"~ namespace prod: inbound mode Permissive → Strict",
			"~ deployment prod/web: port 9000: excluded (no proxy, plaintext) → Strict"}},
	"a permissive port": {edit: []string{"WEB: x", `meshless.dev/permissive-ports: "8080"`},
		want:   []string{"! deployment prod/web: port 8080: Strict → Permissive"},
		revert: []string{"~ deployment prod/web: port 8080: Permissive → Strict"}},
	"TLS of the app's own": {edit: []string{"WEB: x", `meshless.dev/tls-passthrough-ports: "8443"`},
		want:   []string{"! deployment prod/web: port 8443: Strict → TLS of the app's own"},
		revert: []string{"~ deployment prod/web: port 8443: TLS of the app's own → Strict"}},
	"exclusions": {edit: []string{"API: x", `meshless.dev/exclude-outbound-ports: "25", meshless.dev/exclude-outbound-cidrs: "192.0.2.0/24"`},
		want:   []string{"! deployment prod/api: excludes outbound network 192.0.2.0/24", "! deployment prod/api: excludes outbound port 25"},
		revert: []string{"- deployment prod/api: excludes outbound network 192.0.2.0/24 no longer", "- deployment prod/api: excludes outbound port 25 no longer"}},
	"a rule loses a port": {edit: []string{"ports: [8080, 9000]", "ports: [8080]"},
		want:   []string{"- deployment prod/web may be called by deployment prod/api on port 9000 no longer"},
		revert: []string{"+ deployment prod/web may be called by deployment prod/api on port 9000"}},
	"the default": {edit: []string{"default: Deny", "default: AllowMesh"},
		want: []string{"! namespace prod: authorization default Deny → AllowMesh",
			"! deployment prod/api may be called by any identity of the mesh on every port"},
		revert: []string{"~ namespace prod: authorization default AllowMesh → Deny",
			"- deployment prod/api may be called by any identity of the mesh on every port no longer"}},
	"a dry run": {edit: []string{"mode: Enforce", "mode: DryRun"},
		want:   []string{"! namespace prod: authorization mode Enforce → DryRun"},
		revert: []string{"~ namespace prod: authorization mode DryRun → Enforce"}},
	"unknown destinations": {edit: []string{"unknown: Deny", "unknown: Passthrough"},
		want:   []string{"! namespace prod: outbound unknown Deny → Passthrough"},
		revert: []string{"~ namespace prod: outbound unknown Passthrough → Deny"}},
	"ports of a Service": {edit: []string{"ports: [{name: http, port: 80,", "ports: [{name: dns, port: 53, protocol: UDP}, {name: http, port: 81,"},
		want:   []string{"! service prod/web: has port 53/UDP, which is in the clear", "- service prod/web: has port 80 no longer", "+ service prod/web: has port 81"},
		revert: []string{"- service prod/web: has port 53/UDP no longer", "+ service prod/web: has port 80", "- service prod/web: has port 81 no longer"}},
}

func TestCompare(t *testing.T) {
	m := newMesh(t)
	base := m.side(inputText, m.config)
	if got := lines(meshdiff.Compare(base, base, now)); got != nil {
		t.Errorf("beside itself: %v", got)
	}
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			edit := strings.NewReplacer(c.edit...)
			head := m.side(edit.Replace(inputText), edit.Replace(m.config))
			if diff := cmp.Diff(c.want, lines(meshdiff.Compare(base, head, now))); diff != "" {
				t.Errorf("change (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.revert, lines(meshdiff.Compare(head, base, now))); diff != "" {
				t.Errorf("revert (-want +got):\n%s", diff)
			}
		})
	}
}

func TestImages(t *testing.T) {
	m := newMesh(t)
	base, head := m.side(inputText, m.config, "r:5000/proxy:1", "r/init:1"), m.side(inputText, m.config, "r:5000/proxy@sha256:2", "other/init:1")
	want := []string{"+ image: other/init:1", "- image: r/init:1", "~ image: r:5000/proxy:1 → r:5000/proxy@sha256:2"}
	if diff := cmp.Diff(want, lines(meshdiff.Compare(base, head, now))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestOneLine: no name in the manifests can begin a line of its own.
func TestOneLine(t *testing.T) {
	m := newMesh(t)
	head := m.side(inputText, m.config, "r/proxy:1\n+ trust: \x1b[2Jnobody")
	got := lines(meshdiff.Compare(m.side(inputText, m.config), head, now))
	if want := []string{"+ image: r/proxy:1\ufffd+ trust: \ufffd[2Jnobody"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNothing: a mesh that comes and goes as a whole. What it leaves open is said of a new one, too.
func TestNothing(t *testing.T) {
	m := newMesh(t)
	open := strings.NewReplacer("WEB: x", `meshless.dev/permissive-ports: "8080"`)
	side := m.side(open.Replace(inputText), m.config)
	all := lines(meshdiff.Compare(meshdiff.Nothing(), side, now))
	for _, want := range []string{
		"+ namespace prod: enters the mesh, inbound mode Strict, authorization default Deny, authorization mode Enforce, outbound unknown Deny",
		"+ deployment prod/web: enters the mesh as spiffe://cluster.local/ns/prod/deployment/web",
		"! deployment prod/web: port 8080: Strict → Permissive", "+ service prod/web: is in the mesh, port 80", "+ certificates: 2 issued",
	} {
		if !slices.Contains(all, want) {
			t.Errorf("nothing of %q in:\n%s", want, strings.Join(all, "\n"))
		}
	}
	gone := lines(meshdiff.Compare(side, meshdiff.Nothing(), now))
	for _, want := range []string{"- namespace prod: leaves the mesh", "- deployment prod/web: is gone", "- service prod/web: is gone", "- certificates: 2 removed"} {
		if !slices.Contains(gone, want) {
			t.Errorf("nothing of %q in:\n%s", want, strings.Join(gone, "\n"))
		}
	}
}
