package graph_test

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/graph"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/netset"
)

var update = flag.Bool("update", false, "write the expected pictures")

var writers = map[string]func(io.Writer, graph.Graph) error{"mmd": graph.WriteMermaid, "dot": graph.WriteDOT, "json": graph.WriteJSON}

var kinds = manifest.KindsOf(v1alpha1.Spec{})

// rendered is what the function makes of a case.
func rendered(t *testing.T, folder string) []*yaml.RNode {
	t.Helper()
	recipient := func() string {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		return identity.Recipient().String()
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	text := strings.NewReplacer("CA_RECIPIENT", recipient(), "RECIPIENT", recipient()).Replace(read("config.yaml"))
	config, err := v1alpha1.Load(yaml.MustParse(text))
	if err != nil {
		t.Fatal(err)
	}
	r := &report.Report{}
	out := pipeline.Run(parse(t, read("input.yaml")), config, pipeline.Options{Now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Mode: pipeline.Store}, r)
	if r.Failed() {
		t.Fatal(r.Errors())
	}
	return out
}

func parse(t *testing.T, text string) []*yaml.RNode {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	return items
}

func draw(t *testing.T, g graph.Graph, format string) string {
	t.Helper()
	var out bytes.Buffer
	if err := writers[format](&out, g); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestGolden draws every case in every format, from the items as they are and from the items in reverse.
func TestGolden(t *testing.T) {
	folders, err := filepath.Glob("testdata/*")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no cases (%v)", err)
	}
	for _, folder := range folders {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			items := rendered(t, folder)
			g, err := graph.Build(items, kinds)
			if err != nil {
				t.Fatal(err)
			}
			slices.Reverse(items)
			reversed, err := graph.Build(items, kinds)
			if err != nil {
				t.Fatal(err)
			}
			for format := range writers {
				got, file := draw(t, g, format), filepath.Join(folder, "graph."+format)
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(want) {
					t.Errorf("%s differs; run with -update when that is right:\n%s", file, cmp.Diff(string(want), got))
				}
				if other := draw(t, reversed, format); other != got {
					t.Errorf("%s depends on the order of the items:\n%s", format, cmp.Diff(got, other))
				}
			}
		})
	}
}

// hostile are names that try to end their quotes in each format. Kubernetes would refuse them; whoever reviews a pull
// request looks at the picture before.
var hostile = []string{
	`"]; click n0 "javascript:alert(1)`, "a\"]\n  end\n  evil --> n0", `</title><script>alert(1)</script>`, `<img src=x onerror=alert(1)>`, "a\" ]; evil -> n0; x [label=\"", `back\`, `\N\G\"`,
	`%%{init: {"securityLevel":"loose"}}%%`, "`**bold**`", "#quot;#60;", "end", "]]>", "&lt;", "a\x00b\u2028c\u202e", "*_~", "'); DROP", "1. list", "-->", "subgraph",
}

// evil is a graph whose every text is hostile.
func evil(name string) graph.Graph {
	return graph.Graph{TrustDomain: name, Open: []string{name}, Nodes: []graph.Node{
		{ID: graph.AnyMeshID, Class: graph.AnyMesh, Name: "any identity of the mesh"},
		{ID: "spiffe://" + name, Class: graph.Identity, Name: name, Identity: name},
		{ID: "a" + name, Class: graph.Mesh, Namespace: name, Kind: name, Name: name, Identity: name, Access: graph.ByDefault, PermissivePorts: name, Services: []graph.Service{{Name: name}}},
		{ID: "b" + name, Class: graph.Mesh, Namespace: name, Kind: name, Name: name, Identity: name, Access: graph.ByPolicy, Services: []graph.Service{{Name: name}}},
		{ID: "c" + name, Class: graph.External, Namespace: name, Kind: name, Name: name},
		{ID: graph.AnywhereID, Class: graph.Anywhere, Name: "anywhere outside of the mesh"},
	}, Edges: []graph.Edge{
		{From: graph.AnyMeshID, To: "a" + name}, {From: "spiffe://" + name, To: "b" + name}, {From: "a" + name, To: "b" + name, Ports: netset.PortsOf(80)}, {From: "b" + name, To: "b" + name},
	}}
}

// The structure of each picture, which is what is left without its texts, is that of the same graph with a harmless
// name.
func TestHostileNames(t *testing.T) {
	mermaid := regexp.MustCompile(`"[^"\n]*"`)
	dot := regexp.MustCompile(`"(?:[^"\\\n]|\\.)*"`)
	structure := map[string]func(string) string{
		"mmd": func(text string) string { return mermaid.ReplaceAllString(text, `""`) },
		"dot": func(text string) string { return dot.ReplaceAllString(text, `""`) },
	}
	for format, of := range structure {
		want := of(draw(t, evil("harmless"), format))
		for _, name := range hostile {
			text := draw(t, evil(name), format)
			if got := of(text); got != want {
				t.Errorf("%s: %q changes the structure:\n%s", format, name, cmp.Diff(want, got))
			}
		}
	}
	allowed := regexp.MustCompile(`^(?:[A-Za-z0-9 .,:/⇢-]|#\d+;|<br/>)*$`)
	for _, name := range hostile {
		for _, quoted := range mermaid.FindAllString(draw(t, evil(name), "mmd"), -1) {
			if !allowed.MatchString(strings.Trim(quoted, `"`)) {
				t.Errorf("mermaid: %q is written as %s", name, quoted)
			}
		}
	}
}

// TestNoSuchPort: a port of a Service that is none is not drawn as another one.
func TestNoSuchPort(t *testing.T) {
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: outside}\nspec: {type: ExternalName, externalName: example.org, ports: [{port: 70000}, {port: 443}]}\n"
	g, err := graph.Build(append(rendered(t, "testdata/small"), parse(t, service)...), kinds)
	if err != nil {
		t.Fatal(err)
	}
	if text := draw(t, g, "json"); !strings.Contains(text, `"outside"`) || strings.Contains(text, "4464") {
		t.Errorf("port 70000 is drawn as 4464:\n%s", text)
	}
}

// A Service on a label that pods get at run time, and one that names its workloads, stand in front of these; those of
// meshless are in no picture.
func TestServicesBeyondLabels(t *testing.T) {
	items := rendered(t, "testdata/small")
	node := func(text string) string {
		g, err := graph.Build(append(items, parse(t, text)...), kinds)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range g.Nodes {
			for _, s := range n.Services {
				if strings.HasPrefix(s.Name, "meshless-") {
					t.Errorf("%s is drawn", s.Name)
				}
				if s.Name == "late" {
					return n.ID
				}
			}
		}
		return ""
	}
	var name, labels string
	for _, item := range items {
		if item.GetKind() == "Deployment" && item.GetNamespace() == "prod" && name == "" {
			name = item.GetName()
			text, err := item.Pipe(yaml.Lookup("spec", "template", "metadata", "labels"))
			if err != nil {
				t.Fatal(err)
			}
			labels = "app: " + text.Field("app").Value.YNode().Value
		}
	}
	for _, service := range []string{
		"metadata: {name: late, namespace: prod}\nspec: {selector: {" + labels + ", role: primary}}\n",
		"metadata: {name: late, namespace: prod, annotations: {meshless.dev/workloads: deployment/" + name + "}}\n",
	} {
		if got, want := node("apiVersion: v1\nkind: Service\n"+service), "prod/deployment/"+name; got != want {
			t.Errorf("%s: drawn in front of %q, want %q", service, got, want)
		}
	}
}

// TestServicesWithoutWorkloads: a Service that leads to no workload of the input is drawn by what the mesh map says.
func TestServicesWithoutWorkloads(t *testing.T) {
	text, err := kio.StringAll(rendered(t, "testdata/small"))
	if err != nil {
		t.Fatal(err)
	}
	outside := regexp.MustCompile(`(?m)^    kind: Mesh\n`).ReplaceAllString(text, "    kind: Mesh\n    outside: [said.prod]\n")
	if outside == text {
		t.Fatal("the maps have changed their form")
	}
	for _, test := range []struct {
		name, spec string
		want       graph.Class // none where it is not drawn
	}{
		{"late", "{ports: [{port: 80}]}", graph.Unknown},
		{"late", "{selector: {operator: x}}", graph.Unknown},
		{"said", "{ports: [{port: 80}]}", graph.External},
		{"said", "{selector: {operator: x}}", graph.External},
		{"said", "{selector: {app: web, role: primary}}", graph.External},
		{"late", "{type: ExternalName, externalName: example.org}", graph.External},
		{"late", "{selector: {app: web, role: primary}}", ""},
	} {
		g, err := graph.Build(append(parse(t, outside), parse(t, "apiVersion: v1\nkind: Service\nmetadata: {name: "+test.name+", namespace: prod}\nspec: "+test.spec+"\n")...), kinds)
		if err != nil {
			t.Fatal(err)
		}
		got := graph.Class("")
		for _, n := range g.Nodes {
			if n.ID == "prod/v1.service/"+test.name {
				got = n.Class
			}
		}
		if got != test.want {
			t.Errorf("%s %s: is %q, want %q", test.name, test.spec, got, test.want)
		}
	}
}

// What is not understood is refused, with what to do.
func TestBuildRefuses(t *testing.T) {
	text, err := kio.StringAll(rendered(t, "testdata/small"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("testdata/small/input.yaml")
	if err != nil {
		t.Fatal(err)
	}
	mesh := regexp.MustCompile("meshless-mesh-[a-z0-9]+").FindString(text)
	without := func(mark string) string {
		var kept []string
		for part := range strings.SplitSeq(text, "\n---\n") {
			if !strings.Contains(part, mark) {
				kept = append(kept, part)
			}
		}
		return strings.Join(kept, "\n---\n")
	}
	for name, test := range map[string]struct{ text, want string }{
		"not rendered":  {string(raw), "there is no mesh map"},
		"map gone":      {without("name: " + mesh + "\n  namespace: prod"), "the mesh map of its namespace (configmap prod/" + mesh + ") is not in the input"},
		"map damaged":   {strings.Replace(text, "mode: Strict", "mode: Lax", 1), `"Lax" is neither Strict nor Permissive`},
		"half injected": {strings.Replace(text, "name: meshless-init", "name: other", 1), "spec.template.spec.initContainers: lacks the container meshless-init"},
		"arguments":     {strings.Replace(text, "--proxy-uid=15000", "--off", 1), "spec.template.spec.initContainers[0].args: flag provided"},
		"twice":         {text + "---\n" + string(raw), "stands twice"},
		"a list":        {"apiVersion: apps/v1\nkind: DeploymentList\nmetadata: {name: x}\nitems: []\n---\n" + text, "is a list"},
	} {
		if _, err := graph.Build(parse(t, test.text), kinds); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}
