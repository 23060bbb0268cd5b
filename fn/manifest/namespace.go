package manifest

import (
	"cmp"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/report"
)

// EffectiveNamespace is where an object is: "default" where its manifest names no namespace, and "" where its kind has
// none. Every lookup and comparison goes by it. The field Object.Namespace is what the manifest says, for messages
// alone.
func EffectiveNamespace(o report.Object) string {
	if IsPolicyGroup(o.APIVersion) { // whose newer kinds kyaml does not know
		return ""
	}
	if openapi.IsCertainlyClusterScoped(yaml.TypeMeta{APIVersion: o.APIVersion, Kind: o.Kind}) {
		return ""
	}
	return cmp.Or(o.Namespace, metav1.NamespaceDefault)
}

// NamespaceOf is the effective namespace of an item.
func NamespaceOf(item *yaml.RNode) string { return EffectiveNamespace(report.ObjectOf(item)) }

// Key is an object as the key of a map: two manifests of one object have the same, however they spell its namespace,
// and whichever version of its group they are written in.
func Key(o report.Object) report.Object {
	o.Namespace = EffectiveNamespace(o)
	o.APIVersion = groupIn(o.APIVersion)
	return o
}
