package manifest_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// FuzzTemplates: whatever an object holds, templates are found where they are, with names that Kubernetes accepts, and
// nothing panics.
func FuzzTemplates(f *testing.F) {
	f.Add("spec.jobs[].template", "{spec: {jobs: [{name: A_b, template: {spec: {containers: [{name: c}]}}}, {template: {}}]}}")
	f.Add("spec.a[].b[]", "{spec: {a: [{b: [{}, []]}, {xName: y, b: [{metadata: {annotations: {meshless.dev/workload: x}}}]}]}}")
	f.Add("spec.template", "{spec: {\"\": {containers: [{image: i}]}}}")
	f.Add("spec.template", "{spec: {x: &x {spec: {containers: [{image: i}]}}, template: *x, y: [*x]}}")
	f.Fuzz(func(t *testing.T, path, text string) {
		item, err := yaml.Parse(text)
		if err != nil || node.CheckItem(item) != nil {
			t.Skip()
		}
		kinds := manifest.KindsOf(v1alpha1.Spec{Workloads: v1alpha1.WorkloadSelectors{Templates: []v1alpha1.PodTemplate{{Path: path}}}})
		for _, find := range []func(*yaml.RNode) ([]manifest.Template, bool){kinds.Templates, kinds.Find} {
			templates, _ := find(item)
			for _, template := range templates {
				if node.At(item.YNode(), template.Path...) == nil {
					t.Errorf("%s is not there", template.Field())
				}
				if name := "x" + template.Name; item.GetName() == "" && len(name) < 200 && len(validation.IsDNS1123Subdomain(name)) > 0 {
					t.Errorf("%s: %q is no name", template.Field(), template.Name)
				}
			}
		}
		kinds.Missing(item)
		kinds.WarnUnknownPods(item, &report.Report{})
	})
}
