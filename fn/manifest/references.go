package manifest

import (
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// referring are the kinds that may take the pod template of another object instead of one of their own, by the field
// that names it.
var referring = map[string]string{"argoproj.io/Rollout": "workloadRef"}

// Reference is an object that makes pods of another's template.
type Reference struct {
	From  report.Object
	Field string        // that names the other
	To    report.Object // in the namespace of From
}

// ReferenceOf is what an item refers to, and whether it does.
func ReferenceOf(item *yaml.RNode) (Reference, bool) {
	key := referring[kindOf(item)]
	if key == "" {
		return Reference{}, false
	}
	ref := node.Get(item.YNode(), "spec", key)
	if ref == nil || ref.Kind != yaml.MappingNode {
		return Reference{}, false
	}
	from := report.ObjectOf(item)
	to := report.Object{APIVersion: node.Scalar(ref, "apiVersion"), Kind: node.Scalar(ref, "kind"), Namespace: from.Namespace, Name: node.Scalar(ref, "name")}
	return Reference{from, "spec." + key, to}, true
}

// Standing is what is known of the pods that are made of another's template.
type Standing int

// The standings.
const (
	NotThere Standing = iota // the other is not in the input
	NotInMesh
	InMesh
)

// Warn says what of a reference leaves pods outside of the mesh, or unknown.
func (ref Reference) Warn(s Standing, r *report.Report) {
	switch s {
	case NotThere:
		r.Warn(ref.From, ref.Field, "takes the pod template of %s, which is not in the input: whether these pods are in the mesh, nobody knows here. Render both together, or correct the reference", ref.To)
	case NotInMesh:
		r.Warn(ref.From, ref.Field, "takes the pod template of %s, which is not in the mesh, and so are none of these pods. Take that one into the mesh: the annotation %s, spec.workloads of the config or hostNetwork keeps it out",
			ref.To, api.InjectAnnotation)
	}
}

// warnReferences says which objects make pods outside of the mesh of others' templates.
func (m *Model) warnReferences(r *report.Report) {
	if len(m.references) == 0 {
		return
	}
	standing := map[report.Object]Standing{}
	for _, w := range m.Outside {
		standing[Key(w.Object)] = NotInMesh
	}
	for _, w := range m.Workloads {
		standing[Key(w.Object)] = InMesh
	}
	for _, ref := range m.references {
		ref.Warn(standing[Key(ref.To)], r)
	}
}
