package lint_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/lint"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

// TestSelectors: a selector of the config that selects nothing is most often mistyped. What it was to keep out is in
// the mesh, and what it was to take in is not.
func TestSelectors(t *testing.T) {
	for selectors, want := range map[string]string{
		"{include: [{name: web}]}":              "",
		"{include: [{name: web}, {name: wed}]}": `error: mutualtls: spec.workloads.include[1]: selects no workload of the input: there is no workload "wed"; there is Deployment "web"`,
		"{exclude: [{name: wep}]}":              `error: mutualtls: spec.workloads.exclude[0]: selects no workload of the input, and whom it means is in the mesh: there is no workload "wep"; there is Deployment "web"`,
		"{exclude: [{namespace: kube-system}]}": "warning: mutualtls: spec.workloads.exclude[0]: selects no workload of the input",
	} {
		t.Run(selectors, func(t *testing.T) {
			items, err := (&kio.ByteReader{Reader: strings.NewReader(manifests), OmitReaderAnnotations: true}).Read()
			if err != nil {
				t.Fatal(err)
			}
			config, err := v1alpha1.Load(yaml.MustParse("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS, spec: {workloads: " + selectors + "}}"))
			if err != nil {
				t.Fatal(err)
			}
			r := &report.Report{}
			lint.Check(manifest.Build(items, config.Spec, r), r)
			var said strings.Builder
			if err := r.WriteText(&said); err != nil {
				t.Fatal(err)
			}
			if got := said.String(); (want == "") == strings.Contains(got, "spec.workloads") || !strings.Contains(got, want) {
				t.Errorf("got  %swant %s", got, want)
			}
		})
	}
}
