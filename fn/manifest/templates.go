package manifest

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// PodFields are the fields of an item that become containers of pods: at any depth, below lists too, one for each pod.
// It finds pod templates, pod specs and what operators make pods of (the steps of Tekton, the containers of Argo
// Workflows, the additions in a Prometheus), like spec.replicatedJobs[0].template.spec.template.spec.containers.
func PodFields(item *yaml.RNode) []string {
	group, _, _ := strings.Cut(item.GetApiVersion(), "/")
	if slices.Contains(podlessGroups, group) {
		return nil
	}
	var fields []string
	findPods(item.YNode(), "", &fields)
	return fields
}

// podlessGroups are API groups whose objects write containers down without making any: schemas, patches, and rules
// about the pods of others.
var podlessGroups = []string{
	"apiextensions.k8s.io", "admissionregistration.k8s.io", "kustomize.config.k8s.io", "kyverno.io",
	"constraints.gatekeeper.sh", "templates.gatekeeper.sh", "mutations.gatekeeper.sh",
}

// containerLists are the keys under which a list of containers stands, and containerKeys those of a single one.
// Patches of containers in custom resources may lack the image, and have a name.
var (
	containerLists = map[string][]string{
		"containers": {"image", "name"}, "initContainers": {"image", "name"}, "steps": {"image"}, "sidecars": {"image"},
	}
	containerKeys = []string{"container", "script"}
)

// findPods adds the fields at or below n, which stands at a path. It follows aliases, whose size CheckItem bounds.
func findPods(n *yaml.Node, path string, fields *[]string) {
	switch n.Kind {
	case yaml.AliasNode:
		findPods(n.Alias, path, fields)
	case yaml.SequenceNode:
		for i, child := range n.Content {
			findPods(child, fmt.Sprintf("%s[%d]", path, i), fields)
		}
	case yaml.MappingNode:
		if group, _, _ := strings.Cut(textOf(n, "apiVersion"), "/"); slices.Contains(podlessGroups, group) && strings.HasSuffix(path, "]") {
			return // an object in a list of objects
		}
		findPodsIn(n, path, fields)
	}
}

func findPodsIn(n *yaml.Node, path string, fields *[]string) {
	found := false
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		at := report.Below(path, key)
		switch before := len(*fields); {
		case key == "openAPIV3Schema":
		case n.Content[i].Tag == yaml.MergeTag:
			findPods(value, path, fields)
		case isContainers(key, value):
			if !found { // the lists of one mapping are of one pod
				*fields = append(*fields, at)
			}
			found = true
		default:
			findPods(value, at, fields)
			// what an operator completes: Tekton's podTemplate has no containers
			if strings.EqualFold(key, "podTemplate") && len(*fields) == before && value.Kind == yaml.MappingNode && len(value.Content) > 0 {
				*fields = append(*fields, at)
			}
		}
	}
}

// isContainers tells whether a field holds containers, or a single one.
func isContainers(key string, value *yaml.Node) bool {
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	if slices.Contains(containerKeys, key) {
		return textOf(value, "image") != ""
	}
	return value.Kind == yaml.SequenceNode && slices.ContainsFunc(value.Content, func(entry *yaml.Node) bool {
		return slices.ContainsFunc(containerLists[key], func(field string) bool { return textOf(entry, field) != "" })
	})
}

// textOf is a scalar in a mapping; "" where there is none.
func textOf(n *yaml.Node, key string) string {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if value := node.Get(n, key); value != nil && value.Kind == yaml.ScalarNode {
		return value.Value
	}
	return ""
}

// UnknownPodFields are the PodFields of an item that no kind covers: no injection reaches them.
func (k Kinds) UnknownPodFields(item *yaml.RNode) []string {
	path, known := k.Find(item)
	if !known {
		return PodFields(item)
	}
	if builtinPath, ok := builtin.TemplatePath(item); ok && slices.Equal(builtinPath, path) {
		return nil // these have one template and no more
	}
	covered := strings.Join(path, ".") + "."
	return slices.DeleteFunc(PodFields(item), func(field string) bool { return strings.HasPrefix(field, covered) })
}

// IsLocalConfig tells whether an item is marked as one that is never applied to a cluster.
func IsLocalConfig(item *yaml.RNode) bool {
	return item.GetAnnotations()[LocalConfigAnnotation] == "true"
}

// WarnLocalWorkload warns of a local item that would make pods: not everyone leaves it out.
func (k Kinds) WarnLocalWorkload(item *yaml.RNode, r *report.Report) {
	if _, workload := k.Find(item); workload || len(PodFields(item)) > 0 {
		r.Warn(report.ObjectOf(item), report.Annotation(LocalConfigAnnotation), "keeps it out of the mesh: kustomize and `kpt live` do not apply it, but `kubectl apply -f` and a folder of Argo CD do. "+
			"Take the annotation out, or keep the object out of what is applied")
	}
}
