package lint_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/lint"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// FuzzSurroundings: whatever stands beside a workload, it is read without a panic, and whoever reads the rendered
// manifests sees the same callers of it.
func FuzzSurroundings(f *testing.F) {
	for _, name := range []string{"callers", "foreign-policies", "refused-other-mesh", "exposed", "quotas", "limit-ranges", "pod-resources"} {
		text, err := os.ReadFile(filepath.Join("..", "pipeline", "testdata", name, "input.yaml"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
		for part := range strings.SplitSeq(string(text), "\n---\n") {
			f.Add(part)
		}
	}
	config, err := v1alpha1.Load(yaml.MustParse("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS}"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		items, err := (&kio.ByteReader{Reader: strings.NewReader(manifests + "---\n" + text), OmitReaderAnnotations: true}).Read()
		if err != nil {
			return
		}
		for _, item := range items {
			if node.CheckItem(item) != nil {
				return
			}
		}
		r := &report.Report{}
		m := manifest.Build(items, config.Spec, r)
		if m == nil {
			return
		}
		lint.Check(m, r)
		if r.Failed() {
			return
		}
		want := portsByName(m)
		again := manifest.Reread(items, m.Workloads, m.Outside, manifest.Model{Spec: config.Spec})
		lint.Surroundings(again, &report.Report{})
		if got := portsByName(again); !maps.Equal(got, want) {
			t.Errorf("the API server calls %v, and was %v", got, want)
		}
	})
}

// portsByName are the ports that the API server calls, by workload.
func portsByName(m *manifest.Model) map[string]string {
	names := map[string]string{}
	for w, ports := range m.APIServerPorts() {
		names[w.Object.String()] = ports.String()
	}
	return names
}
