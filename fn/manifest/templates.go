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
func PodFields(item *yaml.RNode) (fields []string) {
	for _, path := range podPaths(item) {
		fields = append(fields, FieldPath(path))
	}
	return fields
}

// podPaths are the PodFields as paths of keys and indexes.
func podPaths(item *yaml.RNode) (paths [][]string) {
	group, _, _ := strings.Cut(item.GetApiVersion(), "/")
	if !slices.Contains(podlessGroups, group) {
		findPods(item.YNode(), nil, &paths)
	}
	return paths
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

// findPods adds the fields at or below n, which stands at a path. It follows aliases, whose size CheckItem bounds. All
// of an item share one path, which is copied where something is found.
func findPods(n *yaml.Node, path []string, found *[][]string) {
	switch n.Kind {
	case yaml.AliasNode:
		findPods(n.Alias, path, found)
	case yaml.SequenceNode:
		for i, child := range n.Content {
			findPods(child, append(path, fmt.Sprintf("[%d]", i)), found)
		}
	case yaml.MappingNode:
		inList := len(path) > 0 && strings.HasPrefix(path[len(path)-1], "[")
		if inList && isPodlessObject(n) {
			return
		}
		findPodsIn(n, path, found)
	}
}

// isPodlessObject tells whether an entry of a list of objects is one that makes no pods. An entry that is more than an
// object is none, whatever it says: the API server drops what entries of that list do not have, and the pods stay.
func isPodlessObject(n *yaml.Node) bool {
	if group, _, _ := strings.Cut(textOf(n, "apiVersion"), "/"); !slices.Contains(podlessGroups, group) || textOf(n, "kind") == "" {
		return false
	}
	for i := 0; i < len(n.Content); i += 2 {
		if !slices.Contains(objectKeys, n.Content[i].Value) {
			return false
		}
	}
	return node.Get(n, "spec", "containers") == nil
}

// objectKeys are those at the top of objects of the podlessGroups.
var objectKeys = []string{"apiVersion", "kind", "metadata", "spec", "status", "webhooks"}

func findPodsIn(n *yaml.Node, path []string, found *[][]string) {
	own := false
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		at := append(path, key)
		switch before := len(*found); {
		case key == "openAPIV3Schema":
		case n.Content[i].Tag == yaml.MergeTag:
			findPods(value, path, found)
		case isContainers(key, value):
			if !own { // the lists of one mapping are of one pod
				*found = append(*found, slices.Clone(at))
			}
			own = true
		default:
			findPods(value, at, found)
			// what an operator completes: Tekton's podTemplate has no containers
			if strings.EqualFold(key, "podTemplate") && len(*found) == before && value.Kind == yaml.MappingNode && len(value.Content) > 0 {
				*found = append(*found, slices.Clone(at))
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

// textOf is a scalar in a mapping, or in what it merges; "" where there is none.
func textOf(n *yaml.Node, key string) string {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if value := node.Get(n, key); value != nil && value.Kind == yaml.ScalarNode {
		return value.Value
	}
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag != yaml.MergeTag {
			continue
		}
		merged := []*yaml.Node{n.Content[i+1]}
		if merged[0].Kind == yaml.SequenceNode {
			merged = merged[0].Content
		}
		for _, m := range merged {
			if text := textOf(m, key); text != "" {
				return text
			}
		}
	}
	return ""
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
