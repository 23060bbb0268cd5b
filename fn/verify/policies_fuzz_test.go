package verify_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/graph"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
	"github.com/meshless-dev/meshless/internal/api"
)

// FuzzDeclarations: whatever a policy carries as its declaration, verify and graph read it without a panic, and verify
// is quiet about the one that a render wrote alone.
func FuzzDeclarations(f *testing.F) {
	good, _ := renderedFor(f, manifests, declare, pipeline.Options{Now: now, Mode: pipeline.Store})
	declared := func(items []*yaml.RNode) *yaml.RNode {
		for _, item := range items {
			if item.GetAnnotations()[api.DeclaredAnnotation] != "" {
				return item
			}
		}
		return nil
	}
	written := declared(parse(f, good)).GetAnnotations()[api.DeclaredAnnotation]
	f.Add(written)
	f.Add(strings.Replace(written, "name: pg\n", "name: [pg]\n", 1))
	f.Add("kind: A\nmetadata: {name: a, namespace: b}\ntemplate: {spec: {containers: []}}\n")
	f.Add("kind: A\nmetadata: &a {name: a, namespace: b}\ntemplate: {metadata: *a}\n")
	kinds := manifest.KindsOf(v1alpha1.Spec{})
	f.Fuzz(func(t *testing.T, text string) {
		items := parse(t, good)
		if err := declared(items).PipeE(yaml.SetAnnotation(api.DeclaredAnnotation, text)); err != nil {
			return
		}
		r := &report.Report{}
		verify.Check(items, verify.Options{Now: now, EveryWorkload: true, Kinds: kinds}, r)
		if text == written && r.Failed() {
			t.Errorf("what a render wrote is refused: %s", r.Errors())
		}
		_, _ = graph.Build(items, kinds)
	})
}
