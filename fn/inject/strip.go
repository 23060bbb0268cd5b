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
// without injection it changes nothing. Path is where the item keeps its template.
func Strip(item *yaml.RNode, path []string) error {
	found, err := item.Pipe(yaml.Lookup(path...))
	if err != nil || found == nil {
		return nil // the model says what is wrong with it
	}
	template, injected := found.YNode(), Injected(item, path)
	spec, annotations := node.Get(template, "spec"), node.Get(template, "metadata", "annotations")
	if err := podspec.RestoreHandlers(spec, node.Get(annotations, api.OriginalAnnotation)); err != nil {
		return err
	}
	dropNamed(spec, "volumes", api.VolumeName) // before initContainers, in the reverse order of Apply
	dropNamed(spec, "initContainers", api.InitName, api.ProxyName)
	dropNamed(spec, "containers", api.ProxyName)
	if slices.ContainsFunc(written, func(key string) bool { return node.Index(annotations, key) >= 0 }) {
		dropDefaultContainer(annotations)
		for _, key := range written {
			node.Drop(annotations, key)
		}
	}
	if injected {
		dropMetadata(template, annotations)
	}
	return nil
}

// dropMetadata takes the label out, and mappings that hold nothing any more. A label without an injection beside it is
// somebody else's, and the model refuses it.
func dropMetadata(template, annotations *yaml.Node) {
	metadata := node.Get(template, "metadata")
	if annotations != nil && len(annotations.Content) == 0 {
		dropEmptied(metadata, "annotations") // before the labels, in the reverse order of Apply
	}
	labels := node.Get(metadata, "labels")
	if labels == nil || node.Index(labels, api.PackageLabel) < 0 {
		return
	}
	node.Drop(labels, api.PackageLabel)
	if len(labels.Content) == 0 {
		dropEmptied(metadata, "labels")
	}
	if len(metadata.Content) == 0 {
		dropEmptied(template, "metadata")
	}
}

// Injected tells whether the pod template of a workload holds anything of ours.
func Injected(item *yaml.RNode, path []string) bool {
	found, err := item.Pipe(yaml.Lookup(path...))
	if err != nil || found == nil {
		return false
	}
	template := found.YNode()
	return node.Get(template, "metadata", "annotations", api.WorkloadAnnotation) != nil ||
		hasNamed(node.Get(template, "spec"), "initContainers", api.InitName, api.ProxyName) ||
		hasNamed(node.Get(template, "spec"), "containers", api.ProxyName)
}

// dropEmptied removes a key whose value holds nothing any more, where it stands last: there Apply put it, and will put
// it again. Elsewhere somebody wrote it, and taking it away would move it at the next injection.
func dropEmptied(mapping *yaml.Node, key string) {
	if i := node.Index(mapping, key); i == len(mapping.Content)-1 && !commented(mapping.Content[i-1]) && !commented(mapping.Content[i]) {
		node.Drop(mapping, key)
	}
}

func commented(n *yaml.Node) bool {
	return n.HeadComment != "" || n.LineComment != "" || n.FootComment != ""
}

// dropNamed removes list entries by name, and the list with the last of them.
func dropNamed(spec *yaml.Node, key string, names ...string) {
	if !hasNamed(spec, key, names...) {
		return
	}
	entries := node.Get(spec, key)
	entries.Content = slices.DeleteFunc(entries.Content, func(n *yaml.Node) bool { return isNamed(n, names) })
	if len(entries.Content) == 0 {
		dropEmptied(spec, key)
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
