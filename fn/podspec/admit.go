package podspec

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Without is a pod without the containers of ours. Only containers are taken out.
func Without(pod *corev1.PodSpec) *corev1.PodSpec {
	ours := func(c corev1.Container) bool { return c.Name == api.InitName || c.Name == api.ProxyName }
	out := *pod
	out.InitContainers = slices.DeleteFunc(slices.Clone(pod.InitContainers), ours)
	out.Containers = slices.DeleteFunc(slices.Clone(pod.Containers), ours)
	return &out
}

// With is a pod that Without returned with what the containers of a plan ask for, where Apply places them. Whatever
// else they are is left out.
func With(pod *corev1.PodSpec, p *podplan.Plan) *corev1.PodSpec {
	out := *pod
	init := corev1.Container{Name: api.InitName, Resources: requirements(p.Init.Resources)}
	proxy := corev1.Container{Name: api.ProxyName, Resources: requirements(p.Proxy.Resources)}
	if !p.Native {
		out.InitContainers = append(slices.Clone(pod.InitContainers), init)
		out.Containers = append([]corev1.Container{proxy}, pod.Containers...)
		return &out
	}
	always := corev1.ContainerRestartPolicyAlways
	proxy.RestartPolicy = &always
	out.InitContainers = append([]corev1.Container{init, proxy}, pod.InitContainers...)
	return &out
}

func requirements(r *podplan.Resources) (out corev1.ResourceRequirements) {
	if r == nil {
		return out
	}
	read := func(list map[string]string) corev1.ResourceList {
		quantities := corev1.ResourceList{}
		for name, text := range list {
			quantities[corev1.ResourceName(name)] = parse(text)
		}
		return quantities
	}
	return corev1.ResourceRequirements{Requests: read(r.Requests), Limits: read(r.Limits)}
}

// Admit is a pod with the requests and limits that the API server gives it: a request that is missing is the limit, and
// what a container does not say then, the LimitRanges of its namespace say (k8s.io/kubernetes, SetDefaults_Pod and
// plugin limitranger). The pod itself stays as it is.
func Admit(pod *corev1.PodSpec, ranges []corev1.LimitRange) *corev1.PodSpec {
	out := pod.DeepCopy()
	each := func(visit func(*corev1.ResourceRequirements)) {
		for _, list := range [][]corev1.Container{out.InitContainers, out.Containers} {
			for i := range list {
				visit(&list[i].Resources)
			}
		}
	}
	defaults := func() {
		each(func(r *corev1.ResourceRequirements) { fill(&r.Requests, r.Limits) })
		if r := out.Resources; r != nil && len(r.Limits) > 0 { // the pod requests what its containers do, else its limits
			fill(&r.Requests, podLevel(Aggregate(out)))
			fill(&r.Requests, podLevel(r.Limits))
		}
	}
	defaults()
	defer defaults() // they are made again after admission
	for _, l := range ranges {
		requests, limits := containerDefaults(l)
		each(func(r *corev1.ResourceRequirements) {
			fill(&r.Limits, limits)
			fill(&r.Requests, requests)
		})
	}
	return out
}

// podLevel are those resources that decide the class of a pod, and that it may have as a whole.
func podLevel(list corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q, has := list[name]; has {
			out[name] = q
		}
	}
	return out
}

// fill adds what a list does not have.
func fill(list *corev1.ResourceList, from corev1.ResourceList) {
	for name, quantity := range from {
		if _, has := (*list)[name]; has {
			continue
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = quantity
	}
}

// containerDefaults are what a LimitRange says for containers that do not (SetDefaults_LimitRangeItem): the maximum is
// the default of the limit, which is that of the request, and that is the minimum at last.
func containerDefaults(l corev1.LimitRange) (requests, limits corev1.ResourceList) {
	for _, item := range l.Spec.Limits {
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		limit, request := maps.Clone(item.Default), maps.Clone(item.DefaultRequest)
		fill(&limit, item.Max)
		fill(&request, limit)
		fill(&request, item.Min)
		for _, part := range []struct {
			to   *corev1.ResourceList
			from corev1.ResourceList
		}{{&requests, request}, {&limits, limit}} { // the last of several items counts
			if *part.to == nil {
				*part.to = corev1.ResourceList{}
			}
			maps.Copy(*part.to, part.from)
		}
	}
	return requests, limits
}

// QOSClass is the class of an admitted pod (k8s.io/kubernetes, ComputePodQOS). Resources of the pod as a whole decide
// alone where there are any.
func QOSClass(pod *corev1.PodSpec) corev1.PodQOSClass {
	asked := []corev1.ResourceRequirements{}
	if pod.Resources != nil {
		asked = append(asked, *pod.Resources)
	} else {
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			asked = append(asked, c.Resources)
		}
	}
	guaranteed, requests, limits := true, corev1.ResourceList{}, corev1.ResourceList{}
	for _, r := range asked {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			addPositive(requests, r.Requests, name)
			if !addPositive(limits, r.Limits, name) {
				guaranteed = false
			}
		}
	}
	switch {
	case len(requests)+len(limits) == 0:
		return corev1.PodQOSBestEffort
	case guaranteed && equal(requests, limits):
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func addPositive(sum, list corev1.ResourceList, name corev1.ResourceName) bool {
	q, has := list[name]
	if !has || q.Sign() <= 0 {
		return false
	}
	add(sum, name, q)
	return true
}

func equal(a, b corev1.ResourceList) bool {
	return maps.EqualFunc(a, b, func(x, y resource.Quantity) bool { return x.Cmp(y) == 0 })
}

// Requests are what the scheduler, quotas and LimitRanges of type Pod take an admitted pod to request
// (k8s.io/component-helpers, PodRequests): the sum of its containers, or what its init containers take at most, and
// what the pod says as a whole before that.
func Requests(pod *corev1.PodSpec) corev1.ResourceList {
	sum := sumOf(pod, func(c corev1.Container) corev1.ResourceList { return c.Resources.Requests })
	if pod.Resources != nil {
		maps.Copy(sum, pod.Resources.Requests)
	}
	for name, q := range pod.Overhead {
		add(sum, name, q)
	}
	return sum
}

// Limits are the limits of an admitted pod, as Requests.
func Limits(pod *corev1.PodSpec) corev1.ResourceList {
	sum := sumOf(pod, func(c corev1.Container) corev1.ResourceList { return c.Resources.Limits })
	if pod.Resources != nil {
		maps.Copy(sum, pod.Resources.Limits)
	}
	for name, q := range pod.Overhead {
		if limit := sum[name]; !limit.IsZero() {
			add(sum, name, q)
		}
	}
	return sum
}

// Aggregate is what the containers of a pod request together, whatever it says as a whole.
func Aggregate(pod *corev1.PodSpec) corev1.ResourceList {
	return sumOf(pod, func(c corev1.Container) corev1.ResourceList { return c.Resources.Requests })
}

// sumOf adds up what containers ask for. A native sidecar runs beside all that starts after it.
func sumOf(pod *corev1.PodSpec, of func(corev1.Container) corev1.ResourceList) corev1.ResourceList {
	sum, sidecars, most := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for _, c := range pod.Containers {
		addAll(sum, of(c))
	}
	for _, c := range pod.InitContainers {
		now := sidecars
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			addAll(sum, of(c))
			addAll(sidecars, of(c))
		} else {
			now = maps.Clone(sidecars)
			addAll(now, of(c))
		}
		greatest(most, now)
	}
	greatest(sum, most)
	return sum
}

func addAll(sum, list corev1.ResourceList) {
	for name, q := range list {
		add(sum, name, q)
	}
}

func add(sum corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	total := sum[name].DeepCopy()
	total.Add(q)
	sum[name] = total
}

// greatest raises each quantity of a list to that of another.
func greatest(list, other corev1.ResourceList) {
	for name, q := range other {
		if have, ok := list[name]; !ok || have.Cmp(q) < 0 {
			list[name] = q.DeepCopy()
		}
	}
}
