package inject

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
)

func quantities(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

// setPullPolicy writes what the config asks for; without, Kubernetes decides by the tag.
func setPullPolicy(container *yaml.Node, policy corev1.PullPolicy) {
	if policy != "" {
		node.Set(container, "imagePullPolicy", node.Text(string(policy)))
	}
}

// setResources gives a container its resources. A pod that has resources as a whole (spec.resources) shares them out
// itself: the defaults are then left out, since what its containers ask for must fit into what the pod has.
func setResources(container *yaml.Node, w *manifest.Workload, configured *corev1.ResourceRequirements, defaults corev1.ResourceRequirements, o manifest.Overrides) {
	if w.Pod.Spec.Resources != nil && configured == nil && o.CPU == "" && o.Memory == "" {
		return
	}
	node.Set(container, "resources", withOverrides(resources(configured, defaults), o))
}

// resources writes what the config asks for, or the defaults when it asks for nothing.
func resources(configured *corev1.ResourceRequirements, defaults corev1.ResourceRequirements) *yaml.Node {
	r := defaults
	if configured != nil {
		r = *configured
	}
	n := node.Object()
	for _, part := range []struct {
		key  string
		list corev1.ResourceList
	}{{"limits", r.Limits}, {"requests", r.Requests}} {
		if len(part.list) > 0 {
			node.Set(n, part.key, resourceList(part.list))
		}
	}
	return n
}

func resourceList(l corev1.ResourceList) *yaml.Node {
	var names []string
	for name := range l {
		names = append(names, string(name))
	}
	slices.Sort(names)
	n := node.Object()
	for _, name := range names {
		q := l[corev1.ResourceName(name)]
		node.Set(n, name, node.Text(q.String()))
	}
	return n
}

// withOverrides applies the annotations proxy-cpu (a request) and proxy-memory (a request and the limit).
func withOverrides(n *yaml.Node, o manifest.Overrides) *yaml.Node {
	if o.CPU != "" {
		node.Set(node.Child(n, "requests"), "cpu", node.Text(o.CPU))
	}
	if o.Memory != "" {
		node.Set(node.Child(n, "requests"), "memory", node.Text(o.Memory))
		node.Set(node.Child(n, "limits"), "memory", node.Text(o.Memory))
	}
	return n
}
