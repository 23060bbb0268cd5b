package node

import (
	"errors"
	"fmt"
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// CheckItem refuses what no object may be, before any library touches it: something that is no mapping, metadata that
// libraries assume to be mappings and that are none, aliases that contain themselves or explode, and a key that stands
// twice, of which one reader takes the first and another the last.
func CheckItem(item *yaml.RNode) error {
	if yaml.IsMissingOrNull(item) || item.YNode().Kind != yaml.MappingNode {
		return errors.New("is no object: a mapping with apiVersion, kind and metadata is wanted")
	}
	n := item.YNode()
	if err := CheckAliases(n); err != nil {
		return err
	}
	if key := repeatedKey(n); key != "" {
		return fmt.Errorf("holds the key %q twice in one mapping", key)
	}
	metadata := Get(n, "metadata")
	for path, part := range map[string]*yaml.Node{
		"metadata": metadata, "metadata.annotations": Get(metadata, "annotations"), "metadata.labels": Get(metadata, "labels"),
	} {
		if part != nil && part.Kind != yaml.MappingNode && part.Kind != yaml.AliasNode && part.Tag != yaml.NodeTagNull {
			return fmt.Errorf("%s is not a mapping", path)
		}
	}
	return nil
}

// HasAlias tells whether there is an alias at or below n.
func HasAlias(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || slices.ContainsFunc(n.Content, HasAlias)
}

// repeatedKey returns a key that stands twice in one mapping at or below n, or "". It does not follow aliases: what
// they name is looked at where it stands.
func repeatedKey(n *yaml.Node) string {
	if n.Kind == yaml.MappingNode {
		var seen map[string]bool // only for large mappings: the others are quicker to search
		if len(n.Content) > 64 {
			seen = make(map[string]bool, len(n.Content)/2)
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode {
				continue
			}
			if seen[key.Value] || seen == nil && Index(n, key.Value) != i+1 {
				return key.Value
			}
			if seen != nil {
				seen[key.Value] = true
			}
		}
	}
	for _, child := range n.Content {
		if key := repeatedKey(child); key != "" {
			return key
		}
	}
	return ""
}

// maxExpanded bounds how large an object may be once its aliases are written out; a pod of a thousand containers stays
// far below.
const maxExpanded = 1 << 20

// CheckAliases refuses YAML whose aliases contain themselves, or grow beyond any real object when they are written out
// ("billion laughs"). Libraries follow aliases without looking, and a stack overflow cannot be recovered from, so this
// comes before anything else.
func CheckAliases(n *yaml.Node) error {
	if !HasAlias(n) {
		return nil
	}
	sizes := map[*yaml.Node]int{} // expanded sizes; 0 while the node is being measured
	var measure func(n *yaml.Node) (int, error)
	measure = func(n *yaml.Node) (int, error) {
		if n == nil {
			return 0, nil
		}
		if size, seen := sizes[n]; seen {
			if size == 0 {
				return 0, errors.New("holds a YAML alias that contains itself")
			}
			return size, nil
		}
		sizes[n] = 0
		total := 1
		for _, child := range append([]*yaml.Node{n.Alias}, n.Content...) {
			size, err := measure(child)
			if err != nil {
				return 0, err
			}
			if total += size; total > maxExpanded {
				return 0, errors.New("is too large once its YAML aliases are written out")
			}
		}
		sizes[n] = total
		return total, nil
	}
	_, err := measure(n)
	return err
}

// ResolveAliases writes the YAML aliases of an item out, for edits: an edit of an anchor would show wherever it is
// named. The item must have passed CheckAliases.
func ResolveAliases(item *yaml.RNode) error {
	if !HasAlias(item.YNode()) {
		return nil
	}
	return item.DeAnchor()
}
