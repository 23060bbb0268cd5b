package pipeline

import (
	"path"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/admission"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/retarget"
	"github.com/meshless-dev/meshless/internal/api"
)

// writePolicies ensures the policies by which the pods of declared workloads are injected.
func (o *output) writePolicies(keep map[*yaml.RNode]bool, r *report.Report) {
	for _, w := range o.model.Workloads {
		if w.Declaration == nil {
			continue
		}
		name := w.PolicyName(o.model.Package)
		specs, err := admission.Specs(name, w.Declaration, w.Plan)
		var text string
		if err == nil {
			text, err = w.Node.String()
		}
		if err != nil {
			r.Error(w.Object, w.Field(""), "writing its policies: %v", err)
			return
		}
		for i, kind := range manifest.PolicyKinds {
			item := o.writePolicy(w, kind, name, specs[i])
			if i == 0 {
				ensureText(node.Child(node.Child(item.YNode(), "metadata"), "annotations"), api.DeclaredAnnotation, node.Literal(text))
			}
			keep[item] = true
		}
	}
}

// writePolicy ensures one of them and returns it. It is derived, so its spec is ours as a whole; one that says the same
// keeps its bytes.
func (o *output) writePolicy(w *manifest.Workload, kind, name string, spec *yaml.Node) *yaml.RNode {
	item := o.model.State.Policies[kind][w.ID.String()]
	if item == nil {
		file := strings.TrimPrefix(w.SecretName(), api.NamePrefix) + "-" + strings.ToLower(kind) + ".yaml"
		item = o.add(manifest.PolicyAPIVersion, kind, path.Join(w.Namespace, file))
	}
	o.setName(item, name, "")
	annotate(item, map[string]string{api.IdentityAnnotation: w.ID.String(), api.PackageAnnotation: o.model.Package})
	if !sameContent(node.Get(item.YNode(), "spec"), spec) {
		node.Set(item.YNode(), "spec", spec)
	}
	return item
}

// writeDirect ensures the NetworkPolicy of a workload without redirect rules and returns it. It is derived as well.
func (o *output) writeDirect(p retarget.Policy) *yaml.RNode {
	w := p.Workload
	item := o.model.State.DirectPolicies[w.ID.String()]
	if item == nil {
		item = o.add(manifest.NetworkPolicyAPIVersion, manifest.NetworkPolicyKind, path.Join(w.Namespace, strings.TrimPrefix(w.DirectPolicyName(), api.NamePrefix)+".yaml"))
	}
	o.setName(item, w.DirectPolicyName(), w.Namespace)
	annotate(item, map[string]string{api.IdentityAnnotation: w.ID.String(), api.PackageAnnotation: o.model.Package})
	if !sameContent(node.Get(item.YNode(), "spec"), p.Spec) {
		node.Set(item.YNode(), "spec", p.Spec)
	}
	return item
}
