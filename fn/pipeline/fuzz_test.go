package pipeline_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/env"
)

// FuzzRender: whatever the manifests hold, a render ends with an error or with an output that renders to itself, and
// from which un-injection gives the manifests back. Seeds are the golden cases.
func FuzzRender(f *testing.F) {
	cases, err := filepath.Glob("testdata/*/input.yaml")
	if err != nil || len(cases) == 0 {
		f.Fatalf("no seeds found (%v)", err)
	}
	for _, file := range cases {
		f.Add(readFile(f, file), false)
		f.Add(readFile(f, file), true)
	}
	w := newWorld(f)
	configs := map[bool]*v1alpha1.MutualTLS{false: w.config(f, plainConfig), true: w.config(f, containerConfig+"  authorization: {fromNetworkPolicies: true}\n  proxy: {fips140: true}\n")}
	f.Fuzz(func(t *testing.T, input string, container bool) {
		config := configs[container]
		if strings.Contains(input, api.AnnotationPrefix) {
			return // a hand-written injection has no un-injected form to compare with
		}
		items, err := (&kio.ByteReader{Reader: strings.NewReader(input), OmitReaderAnnotations: true}).Read()
		if err != nil {
			return
		}
		out, r := w.run(items, config)
		if r.Failed() {
			if out != nil {
				t.Error("a failed render has output")
			}
			return
		}
		again, r := w.run(out, config)
		if r.Failed() || text(t, again) != text(t, out) {
			t.Errorf("a second render differs: %v", r.Errors())
		}
		if got, want := stripped(t, out), stripped(t, items); got != want {
			t.Errorf("un-injection does not give the input back:\n%s", cmp.Diff(want, got))
		}
	})
}

// stripped is the text of items without what a render adds.
func stripped(t testing.TB, items []*yaml.RNode) string {
	t.Helper()
	var out []*yaml.RNode
	for _, item := range items {
		item = item.Copy()
		if err := item.DeAnchor(); err != nil {
			t.Skip("an alias that cannot be resolved")
		}
		if item.GetAnnotations()[api.IdentityAnnotation] != "" {
			continue
		}
		strip(t, item, v1alpha1.Spec{})
		out = append(out, item)
	}
	return text(t, out)
}

// The applications of others render, and their manifests are not otherwise changed.
func TestCorpus(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	files, err := filepath.Glob(filepath.Join(env.Corpus(t), "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for mode, text := range map[string]string{"Native": plainConfig, "Container": containerConfig} {
			t.Run(filepath.Base(file)+"/"+mode, func(t *testing.T) {
				w := newWorld(t)
				config := w.config(t, text)
				input := readFile(t, file)
				out, _ := w.mustRun(t, parse(t, input), config)
				checkLaws(t, w, config, input, out)
			})
		}
	}
}
