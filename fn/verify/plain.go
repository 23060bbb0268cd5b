package verify

import (
	"errors"
	"fmt"
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// plain is an item as kubectl sends it: without aliases, merge keys and !!binary, behind which a kind, a list or a
// container would be overlooked. One that has none is returned as it is.
func plain(item *yaml.RNode) (*yaml.RNode, error) {
	if !indirect(item.YNode()) {
		return item, nil
	}
	if key := binaryKey(item.YNode()); key != "" {
		return nil, fmt.Errorf("holds the key %q as !!binary, which kubectl takes for another; write it as text", key)
	}
	if key := overruled(item.YNode()); key != "" {
		return nil, fmt.Errorf("holds the key %q before a merge key (<<) that gives it again: kustomize takes the one and kubectl the other; write the merge key first", key)
	}
	data, err := node.JSON(item)
	if err != nil {
		return nil, errors.New("its YAML aliases cannot be resolved: what they or its keys say is no JSON")
	}
	return yaml.Parse(string(data))
}

// indirect tells whether YAML at or below n says more than stands there.
func indirect(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode || isBinary(n) {
		return true
	}
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Kind != yaml.ScalarNode || isMerge(n.Content[i]) {
				return true
			}
		}
	}
	return slices.ContainsFunc(n.Content, indirect)
}

// isBinary tells whether a scalar is Base64 of what kubectl reads: a kind or a name may be.
func isBinary(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag != "" && n.ShortTag() == "!!binary"
}

// binaryKey is the first key at or below n that is written as !!binary; "" where there is none.
func binaryKey(n *yaml.Node) string {
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && isBinary(child) {
			return child.Value
		}
		if key := binaryKey(child); key != "" {
			return key
		}
	}
	return ""
}

func isMerge(key *yaml.Node) bool { return key.ShortTag() == yaml.MergeTag }

// overruled is a key at or below n that a later merge key of the same mapping gives again; "" where there is none. YAML
// 1.2 lets the key that is written out win, and the reader of kubectl the one that comes last.
func overruled(n *yaml.Node) string {
	if n.Kind == yaml.MappingNode {
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !isMerge(n.Content[i]) {
				seen[keyText(n.Content[i])] = true
				continue
			}
			for _, key := range mergedKeys(n.Content[i+1]) {
				if seen[key] {
					return key
				}
			}
		}
	}
	for _, child := range n.Content {
		if key := overruled(child); key != "" {
			return key
		}
	}
	return ""
}

// mergedKeys are the keys that the value of a merge key gives.
func mergedKeys(n *yaml.Node) (keys []string) {
	switch n.Kind {
	case yaml.AliasNode:
		return mergedKeys(n.Alias)
	case yaml.SequenceNode:
		for _, child := range n.Content {
			keys = append(keys, mergedKeys(child)...)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if isMerge(n.Content[i]) {
				keys = append(keys, mergedKeys(n.Content[i+1])...)
			} else {
				keys = append(keys, keyText(n.Content[i]))
			}
		}
	}
	return keys
}

func keyText(key *yaml.Node) string {
	if key.Kind == yaml.AliasNode {
		return key.Alias.Value
	}
	return key.Value
}
