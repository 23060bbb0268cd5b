package policytools

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/env"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

const policies = "../../examples/policies"

// input is a package to render.
type input struct {
	name      string
	example   string
	manifests func(t *testing.T) string // in place of those of the example pod; nil: those that are there
	spec      string                    // more lines of the config
}

// rendered is what kustomize makes of an input: without the function, with it, and with the exceptions as well.
type rendered struct{ before, after, excepted string }

var inputs = []input{
	{name: "shop", example: "shop"},
	{name: "pod", example: "pod"},
	{name: "ingress", example: "ingress"},
	{name: "bookinfo", example: "pod", manifests: corpus("bookinfo")},
	{name: "online boutique", example: "pod", manifests: corpus("online-boutique")},
	{name: "strict", example: "pod", manifests: strict},
	{name: "strict, as a container", example: "pod", manifests: strict, spec: "  sidecar: {mode: Container}\n"},
	{name: "strict, by iptables", example: "pod", manifests: strict, spec: "  init: {backend: IPTables}\n"},
}

func corpus(name string) func(*testing.T) string {
	return func(t *testing.T) string { return read(t, filepath.Join(env.Corpus(t), name+".yaml")) }
}

func strict(t *testing.T) string { return read(t, "testdata/strict.yaml") }

var renders = struct {
	sync.Mutex
	of map[string]rendered
}{of: map[string]rendered{}}

// render renders the input, once for all tools.
func (in input) render(t *testing.T) rendered {
	t.Helper()
	renders.Lock()
	defer renders.Unlock()
	if r, ok := renders.of[in.name]; ok {
		return r
	}
	e := example.Copy(t, "../../examples/"+in.example)
	if in.manifests != nil {
		e.Write(t, "pod.yaml", in.manifests(t))
	}
	kustomization := read(t, filepath.Join(e.Dir, "kustomization.yaml"))
	e.Replace(t, "kustomization.yaml", "transformers: [mtls.yaml]\n", "")
	r := rendered{before: e.Plain(t)}
	e.Write(t, "kustomization.yaml", kustomization)
	if in.spec != "" {
		e.Write(t, "mtls.yaml", read(t, filepath.Join(e.Dir, "mtls.yaml"))+in.spec)
	}
	e.Issue(t, time.Now())
	r.after = e.Render(t)
	if err := os.CopyFS(filepath.Join(e.Dir, "policies"), os.DirFS(policies)); err != nil {
		t.Fatal(err)
	}
	e.Write(t, "kustomization.yaml", kustomization+"components: [policies]\n")
	r.excepted = e.Render(t)
	renders.of[in.name] = r
	return r
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// temporary is a file of the text.
func temporary(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// lines are those of the table in a section of the page, as "rule container".
func lines(t *testing.T, section string) map[string]bool {
	t.Helper()
	_, text, found := strings.Cut(read(t, "../../docs/policy-tools.md"), "\n## "+section+"\n")
	if !found {
		t.Fatalf("docs/policy-tools.md has no section %s", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	out := map[string]bool{}
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.Contains(cells[1], "`") {
			continue
		}
		for container := range strings.SplitSeq(cells[2], ",") {
			out[strings.Trim(cells[1], " `")+" "+strings.Trim(container, " `")] = true
		}
	}
	return out
}
