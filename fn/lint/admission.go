package lint

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// admitted is a workload's pod as the API server admits it: without the containers of ours, and with them.
type admitted struct {
	workload      *manifest.Workload
	before, after *corev1.PodSpec
}

// admission knows workloads as they are rendered or not: what ours ask for says the plan.
func admission(w *manifest.Workload, ranges []corev1.LimitRange) admitted {
	pod := podspec.Without(&w.Pod.Spec)
	a := admitted{workload: w, before: podspec.Admit(pod, ranges)}
	if a.after = a.before; w.Plan != nil {
		a.after = podspec.Admit(podspec.With(pod, w.Plan), ranges)
	}
	return a
}

// containers are those of an admitted pod.
func containers(pod *corev1.PodSpec) []corev1.Container {
	return append(append([]corev1.Container{}, pod.InitContainers...), pod.Containers...)
}

// isOurs tells whether injection has put a container into the pod.
func isOurs(c corev1.Container) bool { return c.Name == api.InitName || c.Name == api.ProxyName }

// warnClasses warns of Guaranteed pods that become Burstable, unless somebody has said that it does not matter.
func warnClasses(m *manifest.Model, r *report.Report) {
	for _, w := range m.Workloads {
		a, class := admission(w, m.LimitRangesOf(w.Namespace)), m.QOSClass(w)
		if class == v1alpha1.QOSClassKeep && w.Declaration != nil {
			continue // the policies keep it
		}
		if class == v1alpha1.QOSClassIgnore || podspec.QOSClass(a.before) != corev1.PodQOSGuaranteed || podspec.QOSClass(a.after) == corev1.PodQOSGuaranteed {
			continue
		}
		r.Warn(w.Object, w.Field("spec.containers"), "make a Guaranteed pod, which is Burstable with the sidecar: the static CPU manager of a node then gives its containers no cores of their own, and it is evicted sooner. "+
			"To keep the class, annotate the pod template with %s: %s, or set spec.sidecar.qosClass; where it does not matter, %s", api.QOSClassAnnotation, v1alpha1.QOSClassKeep, v1alpha1.QOSClassIgnore)
	}
}

// warnPodResources warns of pods with resources as a whole into which ours do not fit (k8s.io/kubernetes,
// validatePodResourceConsistency): the API server refuses them.
func warnPodResources(m *manifest.Model, r *report.Report) {
	for _, w := range m.Workloads {
		if w.Pod.Spec.Resources == nil {
			continue
		}
		a := admission(w, m.LimitRangesOf(w.Namespace))
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			has, requested := a.after.Resources.Requests[name]
			before, after := podspec.Aggregate(a.before)[name], podspec.Aggregate(a.after)[name]
			if requested && before.Cmp(has) <= 0 && after.Cmp(has) > 0 {
				r.Warn(w.Object, w.Field(fmt.Sprintf("spec.resources.requests[%s]", name)), "is %s, and the containers request %s with ours: the API server refuses the pod. Raise it, or have ours request less (%s)", &has, &after, ways)
			}
			limit, limited := a.after.Resources.Limits[name]
			for _, c := range a.after.Containers { // those of init containers may be above it
				if own, has := c.Resources.Limits[name]; limited && has && isOurs(c) && own.Cmp(limit) > 0 {
					r.Warn(w.Object, w.Field(fmt.Sprintf("spec.resources.limits[%s]", name)), "is %s, and that of %s is %s: the API server refuses the pod. Raise it, or lower that of ours (%s)", &limit, c.Name, &own, ways)
				}
			}
		}
	}
}

// ways are where somebody says what our containers ask for.
const ways = "spec.proxy.resources and spec.init.resources of the config, or the annotations " + api.ProxyCPUAnnotation + ", " + api.ProxyMemoryAnnotation + ", " +
	api.ProxyCPULimitAnnotation + " and " + api.ProxyMemoryLimitAnnotation
