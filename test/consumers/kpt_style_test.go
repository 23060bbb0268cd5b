package consumers

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/test/env"
	"github.com/meshless-dev/meshless/test/example"
)

// styles are the two ways in which people indent lists.
var styles = []yaml.SequenceIndentStyle{yaml.WideSequenceStyle, yaml.CompactSequenceStyle}

// styled has what made a second render change a file: a list in a probe, which stands in an annotation above all other
// lists, init containers whose fields have another order than ours, and a List without workloads.
const styled = `# Copyright, in a document of its own.
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: prod
spec:
  selector:
    matchLabels:
      app: web
  template:
    metadata:
      labels:
        app: web
    spec:
      initContainers:
      - image: init:1
        env:
        - name: A
          value: b
        name: first
        command:
        - "true"
      containers:
      - name: web
        image: web:1
        ports:
        - name: http
          containerPort: 8080
        readinessProbe:
          httpGet:
            path: /
            # who asks
            httpHeaders:
            - name: Cookie
              value: "a=b"
            port: http
---
apiVersion: v1
kind: List
metadata:
  name: settings
items:
- apiVersion: v1
  kind: ConfigMap
  metadata:
    name: a
    namespace: prod
`

// `kpt fn render` and `meshless issue --kpt` leave alone what either of them has rendered, however the user's files are
// indented, and issue gives them back byte for byte when they leave the mesh.
func TestKptKeepsIndentation(t *testing.T) {
	needKpt(t)
	for _, style := range styles {
		t.Run(string(style), func(t *testing.T) { checkIndentation(t, restyle(t, styled, style)) })
	}
}

// So it is with the manifests of others.
func TestKptCorpus(t *testing.T) {
	needKpt(t)
	corpus, err := filepath.Glob(filepath.Join(env.Corpus(t), "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for i, file := range corpus {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			checkIndentation(t, restyle(t, string(text), styles[i%len(styles)]))
		})
	}
}

// What no cluster knows is marked as local, by which `kpt live apply` and the reader of Config Sync leave it out.
func TestKptMarksWhatIsLocal(t *testing.T) {
	e := example.Copy(t, "../../examples/shop")
	e.IssuePackage(t, time.Now())
	items, err := kio.LocalPackageReader{PackagePath: e.Dir, MatchFilesGlob: append([]string{"Kptfile"}, kio.DefaultMatch...)}.Read()
	if err != nil {
		t.Fatal(err)
	}
	local := map[string]bool{}
	for _, item := range items {
		group, _, _ := strings.Cut(item.GetApiVersion(), "/")
		marked := item.GetAnnotations()["config.kubernetes.io/local-config"] == "true"
		if ours := slices.Contains([]string{"meshless.dev", "kpt.dev"}, group); ours && !marked {
			t.Errorf("%s %s is not marked as local", item.GetKind(), item.GetName())
		}
		if marked {
			local[item.GetKind()] = true
		}
	}
	for _, kind := range []string{"MutualTLS", "CertificateAuthority", "Kptfile"} {
		if !local[kind] {
			t.Errorf("no %s is marked as local", kind)
		}
	}
}

// restyle indents the lists of manifests in one way.
func restyle(t *testing.T, text string, style yaml.SequenceIndentStyle) string {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(text), OmitReaderAnnotations: true, DisableUnwrapping: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, item := range items {
		if out.Len() > 0 {
			out.WriteString("---\n")
		}
		if err := yaml.NewEncoderWithOptions(&out, &yaml.EncoderOptions{SeqIndent: style}).Encode(item.YNode()); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// checkIndentation takes one file into the mesh by kpt and by meshless, twice and by the other, and out again.
func checkIndentation(t *testing.T, text string) {
	t.Helper()
	plain := example.Copy(t, "../../examples/pod")
	remove(t, plain, "pod.yaml", "kustomization.yaml", "mtls/kustomization.yaml")
	write(t, plain, "app.yaml", text)
	kptfile(t, plain, "  mutators:\n    - exec: meshless\n      configPath: mtls.yaml\n")
	for range 2 { // kpt's own form, in which comments and empty lines come to rest
		mustKpt(t, "fn", "eval", plain.Dir, "--exec", "cat")
	}
	byKpt := func(t *testing.T, e *example.Example) { mustKpt(t, "fn", "render", "--allow-exec", e.Dir) }
	byIssue := func(t *testing.T, e *example.Example) { e.IssuePackage(t, time.Now()) }
	for name, order := range map[string][]func(*testing.T, *example.Example){"kpt": {byKpt, byKpt, byIssue}, "issue": {byIssue, byIssue, byKpt}} {
		t.Run(name, func(t *testing.T) {
			e := *plain
			e.Dir = filepath.Join(t.TempDir(), "package")
			if err := os.CopyFS(e.Dir, os.DirFS(plain.Dir)); err != nil {
				t.Fatal(err)
			}
			order[0](t, &e)
			first := files(t, e.Dir)
			if !strings.Contains(first["/app.yaml"], "meshless-proxy") {
				t.Fatal("nothing was injected")
			}
			order[1](t, &e)
			same(t, first, e.Dir, "a second render")
			order[2](t, &e)
			same(t, first, e.Dir, "the other way of rendering")

			e.Edit(t, "mtls.yaml", func(text string) string {
				return strings.Replace(text, "spec:\n", "spec:\n  workloads: {exclude: [{name: \"*\", namespace: \"*\"}]}\n", 1)
			})
			byIssue(t, &e)
			want := files(t, plain.Dir)["/app.yaml"]
			got := files(t, e.Dir)["/app.yaml"]
			if got != want {
				t.Errorf("out of the mesh %s", firstDifference(want, got))
			}
		})
	}
}

// firstDifference are the lines in which two texts differ first.
func firstDifference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	end := func(lines []string) string { return strings.Join(lines[i:min(len(lines), i+5)], "\n") }
	return "the file is not what it was; it was\n" + end(slices.Clone(a)) + "\nand is\n" + end(b)
}
