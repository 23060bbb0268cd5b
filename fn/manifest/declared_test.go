package manifest_test

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// TestResourceDefaults: the resources of our containers are defaults as long as nobody says any, be it a limit alone.
// In a pod with resources as a whole, defaults are left out, and what somebody said is not.
func TestResourceDefaults(t *testing.T) {
	for key, want := range map[string][]string{
		"":                             {api.InitName, api.ProxyName},
		api.LogLevelAnnotation:         {api.InitName, api.ProxyName},
		api.ProxyCPUAnnotation:         {api.InitName},
		api.ProxyMemoryAnnotation:      {api.InitName},
		api.ProxyCPULimitAnnotation:    {api.InitName},
		api.ProxyMemoryLimitAnnotation: {api.InitName},
	} {
		declared := v1alpha1.DeclaredWorkload{Kind: "Cluster", Name: "pg", Namespace: "data", Selector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "pg"}}}
		if value := "1"; key != "" {
			if key == api.LogLevelAnnotation {
				value = "debug"
			}
			declared.Annotations = map[string]string{key: value}
		}
		spec := v1alpha1.Spec{TrustDomain: "cluster.local", Workloads: v1alpha1.WorkloadSelectors{Overrides: v1alpha1.DefaultOverrides(), Declared: []v1alpha1.DeclaredWorkload{declared}}}
		r := &report.Report{}
		m := manifest.Build(nil, spec, r)
		if r.Failed() || len(m.Workloads) != 1 {
			t.Fatalf("%q: %v", key, r.Errors())
		}
		if got := m.Workloads[0].Declaration.ResourceDefaults; !slices.Equal(got, want) {
			t.Errorf("%q: defaults of %v, want %v", key, got, want)
		}
	}
}
