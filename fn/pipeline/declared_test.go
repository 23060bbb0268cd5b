package pipeline_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
)

// declaredCase is the golden case of declared workloads, rendered.
func declaredCase(t *testing.T) (*world, *v1alpha1.MutualTLS, []*yaml.RNode) {
	t.Helper()
	w := newWorld(t)
	folder := filepath.Join("testdata", "declared")
	config := w.config(t, readFile(t, filepath.Join(folder, "config.yaml")))
	out, _ := w.mustRun(t, parse(t, readFile(t, filepath.Join(folder, "input.yaml"))), config)
	return w, config, out
}

// TestPoliciesAreRestored: a kustomization gives policies prefixes, and namespaces that they do not have; a render
// gives them their names back, and whatever else it writes.
func TestPoliciesAreRestored(t *testing.T) {
	w, config, out := declaredCase(t)
	var moved []*yaml.RNode
	for _, item := range out {
		item = item.Copy()
		if manifest.IsPolicy(item) {
			set(t, item, "dev-"+item.GetName(), "metadata", "name")
			set(t, item, "shop", "metadata", "namespace")
			if strings.HasSuffix(item.GetKind(), "Binding") {
				set(t, item, "dev-other", "spec", "policyName")
			} else {
				set(t, item, "Ignore", "spec", "failurePolicy")
			}
		}
		moved = append(moved, item)
	}
	again, _ := w.mustRun(t, moved, config)
	if got, want := text(t, again), text(t, out); got != want {
		t.Errorf("a render leaves\n%s\nwant\n%s", got, want)
	}
}

// TestPoliciesGo: with its declaration a workload loses its policies and its Secret.
func TestPoliciesGo(t *testing.T) {
	w, config, out := declaredCase(t)
	config.Spec.Workloads.Declared, config.Spec.Authorization.Rules = nil, nil
	again, _ := w.mustRun(t, out, config)
	if left := slices.ContainsFunc(again, manifest.IsPolicy); left || strings.Contains(text(t, again), "cluster/pg") {
		t.Errorf("a render leaves\n%s", text(t, again))
	}
}
