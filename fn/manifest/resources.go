package manifest

import (
	"cmp"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// What a container of ours gets, as request and limit, in a pod that stays Guaranteed, where nobody says. The proxy's
// limits of memory are those that it has elsewhere, so it holds as many connections. No CPU is a whole number: the
// static CPU manager then gives it no core of its own, which would be one less for the app.
var (
	guaranteedProxy = quantities("100m", "256Mi", "")
	guaranteedInit  = quantities("100m", "64Mi", "")
)

// QOSClass is what the config or an annotation asks for: the class of a pod is kept, or not; "" where nobody says.
func (m *Model) QOSClass(w *Workload) v1alpha1.QOSClass {
	return cmp.Or(v1alpha1.QOSClass(w.Overrides.QOSClass), m.Spec.Sidecar.QOSClass)
}

// LimitRangesOf are those of a namespace.
func (m *Model) LimitRangesOf(namespace string) (ranges []corev1.LimitRange) {
	for _, l := range m.LimitRanges {
		if EffectiveNamespace(report.Object{APIVersion: "v1", Kind: "LimitRange", Namespace: l.Namespace}) == namespace {
			ranges = append(ranges, l)
		}
	}
	return ranges
}

// containerResources are what our containers of a workload ask for.
func (m *Model) containerResources(w *Workload) (init, proxy *podplan.Resources) {
	spec, ranges := m.Spec, m.LimitRangesOf(w.Namespace)
	guaranteed := func(pod *corev1.PodSpec) bool {
		return podspec.QOSClass(podspec.Admit(pod, ranges)) == corev1.PodQOSGuaranteed
	}
	init, proxy = resources(w, spec.Init.Resources, initResources, Overrides{}), resources(w, spec.Proxy.Resources, proxyResources, w.Overrides)
	if w.Declaration != nil { // the class of its pods shows when they are made
		return init, proxy
	}
	pod := &w.Pod.Spec
	with := &podplan.Plan{Native: spec.Sidecar.Mode == v1alpha1.NativeSidecar, Init: podplan.Container{Resources: init}, Proxy: podplan.Container{Resources: proxy}}
	if m.QOSClass(w) != v1alpha1.QOSClassKeep || !guaranteed(pod) || guaranteed(podspec.With(pod, with)) {
		return init, proxy
	}
	if pod.Resources != nil { // what a container requests is what the pod as a whole does, and less than its limit
		return nil, nil
	}
	return m.guaranteedResources(w)
}

// guaranteedResources are what our containers ask for in a Guaranteed pod that stays so.
func (m *Model) guaranteedResources(w *Workload) (init, proxy *podplan.Resources) {
	init = resources(w, m.Spec.Init.Resources, otherThan(initResources, guaranteedInit), Overrides{})
	proxy = resources(w, m.Spec.Proxy.Resources, otherThan(proxyResources, guaranteedProxy), w.Overrides)
	return guarantee(init, guaranteedInit), guarantee(proxy, guaranteedProxy)
}

// otherThan are requirements without some resources.
func otherThan(r corev1.ResourceRequirements, names corev1.ResourceList) corev1.ResourceRequirements {
	other := func(list corev1.ResourceList) corev1.ResourceList {
		list = maps.Clone(list)
		maps.DeleteFunc(list, func(name corev1.ResourceName, _ resource.Quantity) bool { return has(names, name) })
		return list
	}
	return corev1.ResourceRequirements{Requests: other(r.Requests), Limits: other(r.Limits)}
}

// guarantee makes request and limit of some resources the same: the limit that somebody gave, or else the request, or
// the default.
func guarantee(r *podplan.Resources, defaults corev1.ResourceList) *podplan.Resources {
	for name, quantity := range defaults {
		value := cmp.Or(r.Limits[string(name)], r.Requests[string(name)], quantity.String())
		override(&r.Limits, name, value)
		override(&r.Requests, name, value)
	}
	return r
}

// override sets a quantity; "" sets nothing.
func override(list *map[string]string, name corev1.ResourceName, quantity string) {
	if quantity == "" {
		return
	}
	if *list == nil {
		*list = map[string]string{}
	}
	q := resource.MustParse(quantity) // readOverrides has parsed it
	(*list)[string(name)] = q.String()
}
