package pipeline

import (
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// checkNamespaces says what is assumed of a workload without a namespace: identities and Service names hold one. Where
// others of the input have one, what is assumed is wrong: kustomize gives objects of charts none
// (kubernetes-sigs/kustomize#6058), and certificates would be for names that nobody has. Where no object has one, it is
// for whoever applies them to say.
func checkNamespaces(m *manifest.Model, items []*yaml.RNode, kustomization string, r *report.Report) {
	none := firstWithoutNamespace(m, items)
	if none == (report.Object{}) {
		return
	}
	others := kustomization
	for _, w := range slices.Concat(m.Workloads, m.Outside) {
		if others == "" && w.Declaration == nil && manifest.EffectiveNamespace(w.Object) != manifest.EffectiveNamespace(none) {
			others = w.Object.Namespace
		}
	}
	if others != "" {
		r.Error(none, "metadata.namespace", "is missing, and others are in %q. kustomize 5.8 leaves objects of helmCharts without one, whatever `namespace:` says "+
			"(kubernetes-sigs/kustomize#6058): a patch adds it, see \"Helm charts\" in docs/kustomize.md. Else set it in the manifest; for a stream, give --namespace", others)
	} else if none.Kind != "Service" {
		r.Warn(none, "metadata.namespace", "is missing, here and maybe elsewhere; identities and Service names are made for %q. Set a namespace in the manifests or in this kustomization, for a stream by --namespace; "+
			"one that an overlay above sets comes too late, since the function belongs into the outermost overlay", manifest.EffectiveNamespace(none))
	}
}

// firstWithoutNamespace is a workload of the mesh, or else a Service.
func firstWithoutNamespace(m *manifest.Model, items []*yaml.RNode) report.Object {
	for _, w := range m.Workloads {
		if w.Object.Namespace == "" {
			return w.Object
		}
	}
	for _, item := range items {
		if o := report.ObjectOf(item); o.Kind == "Service" && o.APIVersion == "v1" && o.Namespace == "" && !manifest.IsLocalConfig(item) {
			return o
		}
	}
	return report.Object{}
}

// refuseEmptied refuses an input without a workload in the mesh, where an earlier render has certified one that is
// gone: most often a step before the render has failed, and every certificate would go with it. Whoever takes the
// workloads out of the mesh has said so in each.
func refuseEmptied(m *manifest.Model, r *report.Report) {
	if len(m.Workloads) > 0 || m.Spec.UsesCertManager() {
		return
	}
	outside := map[string]bool{}
	for _, w := range m.Outside {
		if id, err := api.WorkloadID(m.TrustDomain, w.Namespace, strings.ToLower(w.Kind), w.Name); err == nil {
			outside[id.String()] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.State.Leaves)) {
		if !outside[id] {
			r.Error(report.Object{}, "", "the input holds no workload that is in the mesh, and certificates of %d that are gone, %s among them: did the build before it fail? "+
				"Nothing was removed. If it is meant, run `meshless issue --allow-empty`", len(m.State.Leaves), id)
			return
		}
	}
}
