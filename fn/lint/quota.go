package lint

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// counted is a resource of a quota: what it counts of a pod, by either name of a request.
type counted struct {
	hard  corev1.ResourceName
	name  corev1.ResourceName
	limit bool
	// every container must say it (k8s.io/kubernetes, quota evaluator of pods: validationSet)
	demanded bool
}

var countedResources = []counted{
	{corev1.ResourceLimitsCPU, corev1.ResourceCPU, true, true}, {corev1.ResourceLimitsMemory, corev1.ResourceMemory, true, true},
	{corev1.ResourceRequestsCPU, corev1.ResourceCPU, false, true}, {corev1.ResourceRequestsMemory, corev1.ResourceMemory, false, true},
	{corev1.ResourceCPU, corev1.ResourceCPU, false, true}, {corev1.ResourceMemory, corev1.ResourceMemory, false, true},
	{corev1.ResourceLimitsEphemeralStorage, corev1.ResourceEphemeralStorage, true, false},
	{corev1.ResourceRequestsEphemeralStorage, corev1.ResourceEphemeralStorage, false, false},
	{corev1.ResourceEphemeralStorage, corev1.ResourceEphemeralStorage, false, false},
}

func (x counted) part() string {
	if x.limit {
		return "limits." + string(x.name)
	}
	return "requests." + string(x.name)
}

func (x counted) of(r corev1.ResourceRequirements) corev1.ResourceList {
	if x.limit {
		return r.Limits
	}
	return r.Requests
}

// warnQuotas warns of quotas because of which the API server refuses pods with our containers, and not those without:
// once for each quota and resource.
func warnQuotas(m *manifest.Model, r *report.Report) {
	for i := range m.Quotas {
		q := &m.Quotas[i]
		object := report.Object{APIVersion: "v1", Kind: "ResourceQuota", Namespace: q.Namespace, Name: q.Name}
		namespace := manifest.EffectiveNamespace(object)
		ranges := m.LimitRangesOf(namespace)
		var pods []admitted
		for _, w := range slices.Concat(m.Workloads, m.Outside) {
			if w.Namespace == namespace {
				pods = append(pods, admission(w, ranges))
			}
		}
		for _, x := range countedResources {
			hard, has := q.Spec.Hard[x.hard]
			if !has {
				continue
			}
			field := fmt.Sprintf("spec.hard[%s]", x.hard)
			if x.demanded {
				warnDemand(q, x, pods, func(format string, args ...any) { r.Warn(object, field, format, args...) })
			}
			before, after := use(q, x, pods, false), use(q, x, pods, true)
			if before.Cmp(hard) <= 0 && after.Cmp(hard) > 0 {
				r.Warn(object, field, "is %s, and the workloads of the input ask for %s with our containers, of which there are %s without: pods above it are refused. Raise it, or have ours ask for less (%s)", &hard, &after, &before, ways)
			}
		}
	}
}

// warnDemand warns of the first pod that a quota refuses since a container does not say what it counts. A pod in which
// no container asked for anything is BestEffort without ours alone, and then other quotas hold for it.
func warnDemand(q *corev1.ResourceQuota, x counted, pods []admitted, warn func(format string, args ...any)) {
	for _, a := range pods {
		if a.workload.Plan == nil || a.after.Resources != nil || !inScope(q, a.after) {
			continue
		}
		silent := slices.DeleteFunc(containers(a.after), func(c corev1.Container) bool { _, says := x.of(c.Resources)[x.name]; return says })
		switch {
		case slices.ContainsFunc(silent, isOurs):
			warn("demands %s of every container, and %s or %s of %s says none: its pods are refused. Set it in spec.proxy.resources and spec.init.resources of the config, "+
				"or give the namespace a LimitRange with a default", x.part(), api.InitName, api.ProxyName, a.workload.Object)
			return
		case len(silent) > 0 && !inScope(q, a.before):
			warn("demands %s of every container of pods that are not BestEffort, which those of %s are only without our containers, and its container %q says none: its pods are refused. Set it there, "+
				"or give the namespace a LimitRange with a default", x.part(), a.workload.Object, silent[0].Name)
			return
		}
	}
}

// use is what the pods of a namespace take of a quota at least, with our containers or without.
func use(q *corev1.ResourceQuota, x counted, pods []admitted, injected bool) (sum resource.Quantity) {
	for _, a := range pods {
		pod := a.before
		if injected {
			pod = a.after
		}
		if !inScope(q, pod) {
			continue
		}
		one := podspec.Requests(pod)[x.name]
		if x.limit {
			one = podspec.Limits(pod)[x.name]
		}
		if one.Mul(a.workload.Replicas()) {
			sum.Add(one)
		}
	}
	return sum
}

// inScope tells whether a quota holds for a pod (k8s.io/kubernetes, podMatchesScopeFunc).
func inScope(q *corev1.ResourceQuota, pod *corev1.PodSpec) bool {
	var scopes []corev1.ScopedResourceSelectorRequirement
	for _, name := range q.Spec.Scopes {
		scopes = append(scopes, corev1.ScopedResourceSelectorRequirement{ScopeName: name, Operator: corev1.ScopeSelectorOpExists})
	}
	if q.Spec.ScopeSelector != nil {
		scopes = append(scopes, q.Spec.ScopeSelector.MatchExpressions...)
	}
	return !slices.ContainsFunc(scopes, func(s corev1.ScopedResourceSelectorRequirement) bool { return !holdsFor(s, pod) })
}

func holdsFor(s corev1.ScopedResourceSelectorRequirement, pod *corev1.PodSpec) bool {
	terminating := pod.ActiveDeadlineSeconds != nil && *pod.ActiveDeadlineSeconds >= 0
	bestEffort := podspec.QOSClass(pod) == corev1.PodQOSBestEffort
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort
	case corev1.ResourceQuotaScopePriorityClass:
		return matchesPriority(s, pod.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod.Affinity)
	}
	return false // of other objects than pods
}

func matchesPriority(s corev1.ScopedResourceSelectorRequirement, class string) bool {
	named := class != "" && slices.Contains(s.Values, class)
	switch s.Operator {
	case corev1.ScopeSelectorOpIn:
		return named
	case corev1.ScopeSelectorOpNotIn:
		return !named
	case corev1.ScopeSelectorOpDoesNotExist:
		return class == ""
	}
	return class != ""
}

func crossesNamespaces(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	add := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		terms = append(terms, required...)
		for _, p := range preferred {
			terms = append(terms, p.PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
