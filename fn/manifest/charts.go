package manifest

import (
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// isRelease tells whether an item lets Flux's helm-controller render a chart in the cluster.
func isRelease(item *yaml.RNode) bool { return kindOf(item) == "helm.toolkit.fluxcd.io/HelmRelease" }

// leftOut tells whether an item that is a release says itself that its pods stay outside of the mesh.
func leftOut(item *yaml.RNode) bool {
	return isRelease(item) && item.GetAnnotations()[api.InjectAnnotation] == "disabled"
}

// warnChart says that the pods of a release are not in the mesh: no function runs where its chart is rendered, and its
// post-renderers are patches of kustomize alone.
func warnChart(item *yaml.RNode, r *report.Report) {
	if !isRelease(item) || leftOut(item) {
		return
	}
	r.Warn(report.ObjectOf(item), "spec", "makes pods that stay outside of the mesh: Flux's helm-controller renders the chart in the cluster, where no function runs. "+
		"Render the chart in CI (docs/flux.md, Helm); or declare its pods in spec.workloads.declared; or say that this is meant, with the annotation %s: disabled on the HelmRelease",
		api.InjectAnnotation)
}
