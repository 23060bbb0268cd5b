package lint

import (
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// injection is a label or an annotation by which a pod or a namespace asks another mesh for its sidecar, or to be left
// alone.
type injection struct {
	mesh, key   string
	label       bool     // it counts as a label
	annotation  bool     // it counts as an annotation
	ask, refuse []string // values, in lower case
}

// any stands among the values for every one but the empty.
const anyValue = "*"

var (
	yes = []string{"true", "enabled", "yes", "1"}
	no  = []string{"false", "disabled", "no", "0"}
)

// podInjections are those of pod templates (Istio: istio.io/latest/docs/setup/additional-setup/sidecar-injection;
// Linkerd: linkerd.io/2/features/proxy-injection; Consul: annotations-and-labels of Consul on Kubernetes; Kuma: "Data
// plane on Kubernetes"; OSM and App Mesh: their docs on injection).
var podInjections = []injection{
	{mesh: "Istio", key: "sidecar.istio.io/inject", label: true, annotation: true, ask: yes, refuse: no},
	{mesh: "Istio", key: "istio.io/rev", label: true, ask: []string{anyValue}},
	{mesh: "Istio", key: "istio.io/dataplane-mode", label: true, ask: []string{"ambient"}, refuse: []string{"none"}},
	{mesh: "Linkerd", key: "linkerd.io/inject", label: true, annotation: true, ask: []string{"enabled", "ingress", "true"}, refuse: no},
	{mesh: "Consul", key: "consul.hashicorp.com/connect-inject", label: true, annotation: true, ask: yes, refuse: no},
	{mesh: "Kuma", key: "kuma.io/sidecar-injection", label: true, annotation: true, ask: yes, refuse: no},
	{mesh: "Open Service Mesh", key: "openservicemesh.io/sidecar-injection", annotation: true, ask: yes, refuse: no},
	{mesh: "App Mesh", key: "appmesh.k8s.aws/sidecarInjectorWebhook", annotation: true, ask: yes, refuse: no},
}

// namespaceInjections are those of Namespaces.
var namespaceInjections = []injection{
	{mesh: "Istio", key: "istio-injection", label: true, ask: []string{"enabled"}, refuse: no},
	{mesh: "Istio", key: "istio.io/rev", label: true, ask: []string{anyValue}},
	{mesh: "Istio", key: "istio.io/dataplane-mode", label: true, ask: []string{"ambient"}, refuse: []string{"none"}},
	{mesh: "Linkerd", key: "linkerd.io/inject", annotation: true, ask: []string{"enabled", "ingress", "true"}, refuse: no},
	{mesh: "Kuma", key: "kuma.io/sidecar-injection", label: true, annotation: true, ask: yes, refuse: no},
	{mesh: "Open Service Mesh", key: "openservicemesh.io/sidecar-injection", annotation: true, ask: yes, refuse: no},
	{mesh: "App Mesh", key: "appmesh.k8s.aws/sidecarInjectorWebhook", label: true, ask: yes, refuse: no},
}

// place is where keys stand.
type place struct {
	name string
	keys map[string]string
}

// places are the annotations and the labels of a pod template.
func places(w *manifest.Workload) []place {
	return []place{{"annotations", w.Pod.Annotations}, {"labels", w.Pod.Labels}}
}

func matches(values []string, value string) bool {
	return slices.Contains(values, strings.ToLower(value)) || value != "" && slices.Contains(values, anyValue)
}

// wish is what an injection says at a place.
type wish struct {
	injection
	field, value string // below metadata
	asks         bool
}

// wishesOf are what pods or namespaces say of injection, in the order of the table.
func wishesOf(table []injection, at []place) (found []wish) {
	for _, x := range table {
		for _, p := range at {
			value, said := p.keys[x.key]
			counts := p.name == "labels" && x.label || p.name == "annotations" && x.annotation
			switch field := "metadata." + p.name + "[" + x.key + "]"; {
			case !said || !counts:
			case matches(x.ask, value):
				found = append(found, wish{x, field, value, true})
			case matches(x.refuse, value):
				found = append(found, wish{x, field, value, false})
			}
		}
	}
	return found
}

// asked are the wishes that ask for a sidecar. One that refuses wins over one that asks of the same mesh.
func asked(wishes []wish) []wish {
	return slices.DeleteFunc(slices.Clone(wishes), func(w wish) bool {
		return !w.asks || slices.ContainsFunc(wishes, func(other wish) bool { return !other.asks && other.mesh == w.mesh })
	})
}

// checkInjection refuses pods and namespaces into which another mesh would put its sidecar, behind our init container,
// which has looked already: two redirects in one pod fight over every connection. Who keeps another mesh away may have
// pods that can stand no sidecar.
func checkInjection(m *manifest.Model, r *report.Report) {
	asking := map[string][]wish{} // by namespace
	for _, name := range m.Namespaces() {
		namespace := m.NamespaceObjects[name]
		asking[name] = wishesOf(namespaceInjections, []place{{"annotations", namespace.Annotations}, {"labels", namespace.Labels}})
	}
	taken := map[string]bool{}
	for _, w := range m.Workloads {
		wishes := wishesOf(podInjections, places(w))
		for _, x := range asked(wishes) {
			r.Error(w.Object, w.Field(x.field), "%s: %s asks another mesh for its sidecar (%s); remove it, or leave the workload out of this mesh with the annotation %s: disabled", x.key, x.value, x.mesh, api.InjectAnnotation)
		}
		for _, x := range wishes {
			guards := slices.ContainsFunc(asked(asking[w.Namespace]), func(n wish) bool { return n.mesh == x.mesh })
			if !x.asks && !guards && w.Pod.Annotations[api.InjectAnnotation] != "enabled" {
				r.Warn(w.Object, w.Field(x.field), "%s: %s keeps the sidecar of another mesh away (%s): maybe this pod can stand none. If so, leave it out with the annotation %s: disabled; if not, say so with %s: enabled",
					x.key, x.value, x.mesh, api.InjectAnnotation, api.InjectAnnotation)
			}
		}
		for _, x := range asked(asking[w.Namespace]) {
			if !slices.ContainsFunc(wishes, func(own wish) bool { return !own.asks && own.mesh == x.mesh }) {
				taken[w.Namespace+" "+x.field] = true
			}
		}
	}
	for _, name := range m.Namespaces() {
		checkNamespace(name, asking[name], taken, r)
	}
}

func checkNamespace(name string, wishes []wish, taken map[string]bool, r *report.Report) {
	object := report.Object{APIVersion: "v1", Kind: "Namespace", Name: name}
	for _, x := range wishes {
		switch {
		case taken[name+" "+x.field]:
			r.Error(object, x.field, "%s: %s has another mesh (%s) take in every pod of the namespace, and it has pods of this mesh; remove it, or exclude the namespace in spec.workloads", x.key, x.value, x.mesh)
		case !x.asks:
			r.Warn(object, x.field, "%s: %s keeps the sidecar of another mesh away (%s): maybe its pods can stand none. If so, exclude the namespace in spec.workloads; if not, remove it", x.key, x.value, x.mesh)
		}
	}
}
