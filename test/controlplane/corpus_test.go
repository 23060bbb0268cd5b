package controlplane

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/env"
	"github.com/meshless-dev/meshless/test/program"
)

// TestManifests: manifests that others wrote render, render again to the same bytes, and are what they were once the
// injection is out. The API server takes what it took before, and whatever a render adds. What is refused is listed.
func TestManifests(t *testing.T) {
	d, m := newDryRunner(t), &mesh{recipient(t), recipient(t)}
	unknown := yaml.MustParse("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, unknown: field}")
	if why := d.apply(t, unknown); !strings.Contains(why, "unknown") {
		t.Fatalf("the API server is not strict: %q", why)
	}
	t.Run("findings", func(t *testing.T) { d.checkFindings(t, m) })
	t.Run("corpus", func(t *testing.T) { d.checkCorpus(t, m) })
	t.Run("applications", func(t *testing.T) { d.checkApplications(t, m) })
	t.Logf("%d objects were applied, %d of ours among them", d.applied, d.ours)
}

// checkCorpus takes the manifests that package env finds.
func (d *dryRunner) checkCorpus(t *testing.T, m *mesh) {
	folder := env.Corpus(t)
	for set, pattern := range map[string]string{"single": "*.yaml", "istio": "istio-inject/*.yaml", "linkerd": "linkerd-inject/*.yml", "folder": "kube-prometheus/"} {
		t.Run(set, func(t *testing.T) {
			for name, text := range inputs(t, folder, pattern) {
				d.check(t, m, name, text)
			}
		})
	}
	t.Run("charts", func(t *testing.T) {
		for name, text := range charts(t, folder) {
			d.check(t, m, name, text)
		}
	})
}

// inputs are the files of a pattern by their names; those of a folder are one package. test/env/corpus.sh downloads no
// folders.
func inputs(t *testing.T, folder, pattern string) map[string]string {
	t.Helper()
	whole := strings.HasSuffix(pattern, "/")
	if whole {
		pattern += "*.yaml"
	}
	files, err := filepath.Glob(filepath.Join(folder, pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		program.Missing(t, "the folder %s beside the single files of the corpus", filepath.Dir(pattern))
	}
	texts := map[string]string{}
	for _, file := range files {
		name, err := filepath.Rel(folder, file)
		if err != nil {
			t.Fatal(err)
		}
		if whole {
			name = filepath.Dir(name)
		}
		texts[name] += readFile(t, file) + "\n---\n"
	}
	return texts
}

// charts are what helm makes of the charts.
func charts(t *testing.T, folder string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	entries, err := os.ReadDir(filepath.Join(folder, "charts"))
	if err != nil {
		program.Missing(t, "the folder charts beside the single files of the corpus: %v", err)
	}
	helm := program.Find(t, "helm3", "test/consumers/helm.sh")
	for _, entry := range entries {
		out, err := exec.CommandContext(t.Context(), helm, "template", entry.Name(), filepath.Join(folder, "charts", entry.Name()), "--kube-version", "1.36.0").Output()
		if err != nil {
			t.Errorf("helm template %s: %v", entry.Name(), err)
		}
		texts["charts/"+entry.Name()] = string(out)
	}
	return texts
}

// withAllOut is a config in which no workload is in the mesh.
func withAllOut(spec string) string {
	const exclude = "exclude: [{name: '*'}]"
	if before, after, has := strings.Cut(spec, "workloads: {"); has {
		return before + "workloads: {" + exclude + ", " + after
	}
	return spec + "  workloads: {" + exclude + "}\n"
}

// check holds one package of manifests against the laws and against the API server, in both modes of the sidecar.
func (d *dryRunner) check(t *testing.T, m *mesh, name, text string) {
	t.Run(name, func(t *testing.T) {
		in, err := manifests(t, text)
		if reason, expected := unreadable[name]; expected != (err != nil) || err != nil && !strings.Contains(err.Error(), reason) {
			t.Fatalf("got %v, want %q", err, reason)
		} else if expected {
			return
		}
		refusals := maps.Clone(refusedInputs)
		d.checkMode(t, m, name, in, refusals, "")
		maps.Copy(refusals, refusedAsContainer)
		d.checkMode(t, m, name, in, refusals, "  sidecar: {mode: Container}\n")
	})
}

func (d *dryRunner) checkMode(t *testing.T, m *mesh, name string, in []*yaml.RNode, refusals map[string]string, spec string) {
	t.Helper()
	out, said := m.render(t, in, spec)
	if reason, expected := refusals[name]; expected != (out == nil) || !strings.Contains(said, reason) {
		t.Errorf("refused: %v, want %v for %q:\n%s", out == nil, expected, reason, said)
	} else if !expected {
		d.checkLaws(t, m, name, in, out, said, spec)
	}
}

// checkLaws holds a render, and what it said, against the laws and against the API server.
func (d *dryRunner) checkLaws(t *testing.T, m *mesh, name string, in, out []*yaml.RNode, said, spec string) {
	t.Helper()
	if again := m.mustRender(t, out, spec); written(t, again) != written(t, out) {
		t.Errorf("a second render changes the output:\n%s", gocmp.Diff(written(t, out), written(t, again)))
	}
	undone := out
	if strings.Contains(said, "issued a certificate") {
		undone = m.mustRender(t, out, withAllOut(spec))
	}
	if want, got := written(t, in), written(t, others(undone)); got != want {
		t.Errorf("un-injection does not give the input back:\n%s", gocmp.Diff(want, got))
	}
	after := d.applyAll(t, out)
	for key, reason := range refusedObjects[name] {
		if before := d.applyAll(t, in)[key]; !strings.Contains(before, reason) || before == "" {
			t.Errorf("%s: the API server says %q before, want %q", key, before, reason)
		}
		if !strings.Contains(after[key], reason) || after[key] == "" {
			t.Errorf("%s: the API server says %q after, want %q", key, after[key], reason)
		}
		delete(after, key)
	}
	for key, why := range after {
		t.Errorf("the API server refuses %s: %s", key, why)
	}
}

// applyAll says what the API server refuses of the items, and why, by kind and name.
func (d *dryRunner) applyAll(t *testing.T, items []*yaml.RNode) map[string]string {
	t.Helper()
	refused := map[string]string{}
	for _, item := range manifest.Flatten(items) {
		if !d.knows(item) {
			continue
		}
		item = item.Copy()
		if err := clearOwn(item); err != nil {
			t.Fatal(err)
		}
		d.applied++
		if item.GetAnnotations()[api.IdentityAnnotation] != "" {
			d.ours++
		}
		if why := d.apply(t, item); why != "" {
			refused[item.GetKind()+" "+item.GetName()] = why
		}
	}
	return refused
}
