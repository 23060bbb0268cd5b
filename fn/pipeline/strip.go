package pipeline

import (
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// Strip takes out of the items what a render put in, and returns those that others wrote. It edits the items; when the
// report has an error, the result is nil.
func Strip(items []*yaml.RNode, kinds manifest.Kinds, r *report.Report) []*yaml.RNode {
	r.Locate(items)
	left, _, _ := prepare(items, kinds, true, r)
	if r.Failed() {
		return nil
	}
	return slices.DeleteFunc(left, func(item *yaml.RNode) bool {
		return item.GetAnnotations()[api.IdentityAnnotation] != "" || manifest.IsTripwire(item)
	})
}
