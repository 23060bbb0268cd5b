package inject

import (
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/internal/api"
)

// written are the annotations that Apply writes.
var written = []string{api.WorkloadAnnotation, api.OriginalAnnotation, api.DefaultAnnotation}

// Strip takes out of a workload's pod template what an injection put in, and restores its handlers. On a template
// without injection it changes nothing. Path is where the item keeps its template: keys, and indexes like [0].
func Strip(item *yaml.RNode, path []string) error {
	template, injected := node.At(item.YNode(), path...), Injected(item, path)
	if template == nil || template.Kind != yaml.MappingNode {
		return nil // the model says what is wrong with it
	}
	spec, annotations := node.Get(template, "spec"), node.Get(template, "metadata", "annotations")
	original := node.Get(annotations, api.OriginalAnnotation)
	if err := podspec.RestoreHandlers(spec, original); err != nil {
		return err
	}
	empty := readEmpties(original)
	if injected && withoutRules(spec) {
		empty.dropResolver(spec, original)
	}
	empty.dropNamed(spec, "volumes", ".spec", api.VolumeName) // before initContainers, in the reverse order of Apply
	empty.dropNamed(spec, "initContainers", ".spec", api.InitName, api.ProxyName)
	empty.dropNamed(spec, "containers", ".spec", api.ProxyName)
	if slices.ContainsFunc(written, func(key string) bool { return node.Index(annotations, key) >= 0 }) {
		dropDefaultContainer(annotations)
		for _, key := range written {
			node.Drop(annotations, key)
		}
	}
	if injected {
		empty.dropMetadata(template, annotations)
	}
	return nil
}

// dropMetadata takes the label out, and mappings that hold nothing any more. A label without an injection beside it is
// somebody else's, and the model refuses it.
func (e empties) dropMetadata(template, annotations *yaml.Node) {
	metadata := node.Get(template, "metadata")
	if annotations != nil && len(annotations.Content) == 0 {
		e.leave(metadata, "annotations", ".metadata.annotations") // before the labels, in the reverse order of Apply
	}
	labels := node.Get(metadata, "labels")
	if labels == nil || node.Index(labels, api.PackageLabel) < 0 {
		return
	}
	node.Drop(labels, api.PackageLabel)
	node.Drop(labels, api.DirectLabel)
	if len(labels.Content) == 0 {
		e.leave(metadata, "labels", ".metadata.labels")
	}
	if left := node.Get(metadata, "annotations"); e[".metadata"] != nil && left != nil && len(left.Content) == 0 && len(metadata.Content) == 2 {
		metadata.Content = nil // it was null, so what is empty there is ours
	}
	if len(metadata.Content) == 0 {
		e.leave(template, "metadata", ".metadata")
	}
}

// Injected tells whether the pod template of a workload holds anything of ours.
func Injected(item *yaml.RNode, path []string) bool {
	template := node.At(item.YNode(), path...)
	return node.Get(template, "metadata", "annotations", api.WorkloadAnnotation) != nil ||
		hasNamed(node.Get(template, "spec"), "initContainers", api.InitName, api.ProxyName) ||
		hasNamed(node.Get(template, "spec"), "containers", api.ProxyName)
}

// dropNamed removes entries by name from the list under a key of a mapping, and the list with the last of them. Path is
// that of the mapping.
func (e empties) dropNamed(mapping *yaml.Node, key, path string, names ...string) {
	if !hasNamed(mapping, key, names...) {
		return
	}
	entries := node.Get(mapping, key)
	entries.Content = slices.DeleteFunc(entries.Content, func(n *yaml.Node) bool { return isNamed(n, names) })
	if len(entries.Content) == 0 {
		e.leave(mapping, key, path+"."+key)
	}
}

func hasNamed(spec *yaml.Node, key string, names ...string) bool {
	entries := node.Get(spec, key)
	return entries != nil && slices.ContainsFunc(entries.Content, func(n *yaml.Node) bool { return isNamed(n, names) })
}

func isNamed(n *yaml.Node, names []string) bool {
	name := node.Get(n, "name")
	return name != nil && slices.Contains(names, name.Value)
}
