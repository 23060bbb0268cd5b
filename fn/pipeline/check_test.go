package pipeline_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
)

// With issuance: Never in a package, what a render leaves alone passes, and everything else is named.
func TestRefuseChanges(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	rendered, _ := w.mustRun(t, parse(t, twoDeployments), config)
	config.Spec.Issuance = v1alpha1.IssuanceNever
	check := func(items []*yaml.RNode) []string {
		r := &report.Report{}
		pipeline.Run(items, config, pipeline.Options{Now: w.now, Mode: pipeline.StoreOrCheck, MayConsume: true}, r)
		return r.Errors()
	}
	if errors := check(rendered); len(errors) > 0 {
		t.Errorf("what was rendered is refused: %v", errors)
	}
	stripped := append(withoutKind(rendered, "Deployment"), parse(t, twoDeployments)...)
	if errors := check(stripped); len(errors) != 1 || !strings.Contains(errors[0], "is not what a render leaves") {
		t.Errorf("workloads without their sidecars: %v", errors)
	}
	var orphaned []*yaml.RNode
	for _, item := range rendered {
		if item.GetKind() != "Deployment" || item.GetName() == "web" {
			orphaned = append(orphaned, item)
		}
	}
	if errors := check(orphaned); len(errors) != 1 {
		t.Errorf("state of a workload that has gone: %v", errors)
	}
}

// A base or a Component of kustomize sees names before prefix and namespace; certificates for the final names give it
// away.
func TestHintEarly(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	rendered, _ := w.mustRun(t, parse(t, twoDeployments), config)
	early := parse(t, strings.NewReplacer("name: web", "name: base-web", "name: api", "name: base-api").Replace(twoDeployments))
	w.built = true
	_, r := w.run(append(withoutKind(withoutKind(rendered, "Deployment"), "CertificateAuthority"), early...), config)
	if errors := strings.Join(r.Errors(), "\n"); !strings.Contains(errors, "spiffe://cluster.local/ns/prod/deployment/api, which is no workload of it") {
		t.Errorf("a build before prefix and namespace: %s", errors)
	}
	if _, r := w.run(append(withoutKind(rendered, "CertificateAuthority"), parse(t, oneMore)...), config); !r.Failed() || strings.Contains(strings.Join(r.Errors(), "\n"), "which is no workload of it") {
		t.Errorf("a build with a new workload: %v", r.Errors())
	}
}
