package rewrite

import (
	"fmt"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// entry is a key of a mapping with its value.
type entry struct{ key, value *yaml.Node }

// resolved is what an alias or a document stands for.
func resolved(n *yaml.Node) *yaml.Node {
	for n != nil && (n.Kind == yaml.AliasNode || n.Kind == yaml.DocumentNode && len(n.Content) == 1) {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		} else {
			n = n.Content[0]
		}
	}
	return n
}

func isMerge(key *yaml.Node) bool { return key.ShortTag() == "!!merge" }

// entries are those of a mapping, merge keys (<<) written out: its own come first, and stand for merged ones.
func entries(n *yaml.Node) (list []entry) {
	if n = resolved(n); n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	var merged []entry
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			list = append(list, entry{n.Content[i], n.Content[i+1]})
			continue
		}
		sources := []*yaml.Node{n.Content[i+1]}
		if from := resolved(n.Content[i+1]); from.Kind == yaml.SequenceNode {
			sources = from.Content
		}
		for _, source := range sources {
			merged = append(merged, entries(source)...)
		}
	}
	if len(merged) == 0 {
		return list
	}
	there := indexOf(list)
	for _, m := range merged {
		if there.find(m.key) == nil {
			list = append(list, m)
			there.add(m)
		}
	}
	return list
}

// index finds entries by their keys: by a map where keys are scalars, as they are in objects, since a mapping may be
// large.
type index struct {
	scalars map[string]*entry
	others  []*entry
}

func indexOf(list []entry) *index {
	x := &index{scalars: make(map[string]*entry, len(list))}
	for _, e := range list {
		x.add(e)
	}
	return x
}

func (x *index) add(e entry) {
	switch name, ok := nameOf(e.key); {
	case !ok:
		x.others = append(x.others, &e)
	case x.scalars[name] == nil:
		x.scalars[name] = &e
	}
}

func (x *index) find(key *yaml.Node) *entry {
	if name, ok := nameOf(key); ok {
		return x.scalars[name]
	}
	for _, e := range x.others {
		if same(e.key, key) {
			return e
		}
	}
	return nil
}

// nameOf is the same for two keys that are scalars if they are the same.
func nameOf(key *yaml.Node) (name string, ok bool) {
	if key = resolved(key); key == nil || key.Kind != yaml.ScalarNode {
		return "", false
	}
	if tag := key.ShortTag(); tag != yaml.NodeTagNull {
		return tag + " " + key.Value, true
	}
	return yaml.NodeTagNull, true
}

// same tells whether two nodes are the same value to a reader: style, comments and the order of keys are not part of
// it.
func same(a, b *yaml.Node) bool {
	if a, b = resolved(a), resolved(b); a == nil || b == nil || a.Kind != b.Kind {
		return a == nil && b == nil
	}
	switch a.Kind {
	case yaml.ScalarNode:
		return a.ShortTag() == b.ShortTag() && (a.Value == b.Value || a.ShortTag() == yaml.NodeTagNull)
	case yaml.SequenceNode:
		if len(a.Content) != len(b.Content) {
			return false
		}
		for i := range a.Content {
			if !same(a.Content[i], b.Content[i]) {
				return false
			}
		}
		return true
	}
	return sameMapping(a, b)
}

func sameMapping(a, b *yaml.Node) bool {
	x, y := entries(a), entries(b)
	if len(x) != len(y) {
		return false
	}
	var others *index
	for i, e := range x {
		other := &y[i] // most often
		if !same(e.key, other.key) {
			if others == nil {
				others = indexOf(y)
			}
			other = others.find(e.key)
		}
		if other == nil || !same(e.value, other.value) {
			return false
		}
	}
	return true
}

// firstDifference is the field in which two nodes that are not the same differ; "" for the whole.
func firstDifference(a, b *yaml.Node) string {
	a, b = resolved(a), resolved(b)
	if a == nil || b == nil || a.Kind != b.Kind {
		return ""
	}
	switch a.Kind {
	case yaml.SequenceNode:
		for i := range min(len(a.Content), len(b.Content)) {
			if !same(a.Content[i], b.Content[i]) {
				return fmt.Sprintf("[%d]", i) + below(firstDifference(a.Content[i], b.Content[i]))
			}
		}
	case yaml.MappingNode:
		others := indexOf(entries(b))
		for _, e := range entries(a) {
			if other := others.find(e.key); other == nil {
				return e.key.Value
			} else if !same(e.value, other.value) {
				return e.key.Value + below(firstDifference(e.value, other.value))
			}
		}
	}
	return ""
}

// below joins a path to that of the node above it.
func below(path string) string {
	if path == "" || strings.HasPrefix(path, "[") {
		return path
	}
	return "." + path
}
