// Package node builds and edits YAML nodes. Typed structs would write empty fields and lose comments, and maps would
// lose the order; the function therefore changes what a person reads in a diff on nodes alone.
package node

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// Object builds a mapping from alternating keys and values, in that order.
func Object(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: yaml.NodeTagMap}
	for pair := range slices.Chunk(pairs, 2) {
		n.Content = append(n.Content, Text(pair[0].(string)), Value(pair[1]))
	}
	return n
}

// List builds a sequence.
func List(values ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: yaml.NodeTagSeq}
	for _, v := range values {
		n.Content = append(n.Content, Value(v))
	}
	return n
}

// Value builds the node of a string, a list of strings, a boolean or a number; a node is its own.
func Value(v any) *yaml.Node {
	switch v := v.(type) {
	case *yaml.Node:
		return v
	case string:
		return Text(v)
	case []string:
		n := List()
		for _, s := range v {
			n.Content = append(n.Content, Text(s))
		}
		return n
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: yaml.NodeTagBool, Value: fmt.Sprint(v)}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: yaml.NodeTagInt, Value: fmt.Sprint(v)}
}

// Text is a string; the encoder quotes it when it would read as something else in YAML 1.2. What does in YAML 1.1
// alone, which Kubernetes reads, is quoted here: y, no, on, and numbers to the base of 60, such as 12:30.
func Text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: yaml.NodeTagString, Value: s}
	if (len(s) <= len("off") || strings.Trim(s, "0123456789+-_.:") == "") && yaml.IsValueNonString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// Literal is a string as a block scalar.
func Literal(s string) *yaml.Node {
	n := Text(s)
	n.Style = yaml.LiteralStyle
	return n
}

// Index returns the position of a key's value in a mapping, or -1.
func Index(mapping *yaml.Node, key string) int {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return -1
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return i + 1
		}
	}
	return -1
}

// Get returns the value at a path of keys, or nil.
func Get(n *yaml.Node, path ...string) *yaml.Node {
	for _, key := range path {
		i := Index(n, key)
		if i < 0 {
			return nil
		}
		n = n.Content[i]
	}
	return n
}

// Scalar is the text of the value at a path of keys, "" where there is none.
func Scalar(n *yaml.Node, path ...string) string {
	if value := Get(n, path...); value != nil {
		return value.Value
	}
	return ""
}

// Set gives a key a value. A new key is placed last, where kpt would move it anyway.
func Set(mapping *yaml.Node, key string, v *yaml.Node) {
	if i := Index(mapping, key); i >= 0 {
		mapping.Content[i] = v
		return
	}
	if len(mapping.Content) == 0 {
		mapping.Style &^= yaml.FlowStyle // {} was written in flow style for being empty
	}
	mapping.Content = append(mapping.Content, Text(key), v)
}

// Drop removes a key.
func Drop(mapping *yaml.Node, key string) {
	if i := Index(mapping, key); i >= 0 {
		mapping.Content = slices.Delete(mapping.Content, i-1, i+1)
	}
}

// Child returns the mapping under a key and makes it when it is missing or null.
func Child(mapping *yaml.Node, key string) *yaml.Node {
	n := Get(mapping, key)
	if n == nil || n.Kind != yaml.MappingNode {
		n = Object()
		Set(mapping, key, n)
	}
	return n
}

// Sequence returns the sequence under a key and makes it when it is missing or null.
func Sequence(mapping *yaml.Node, key string) *yaml.Node {
	n := Get(mapping, key)
	if n == nil || n.Kind != yaml.SequenceNode {
		n = List()
		Set(mapping, key, n)
	}
	if len(n.Content) == 0 {
		n.Style &^= yaml.FlowStyle
	}
	return n
}

// At returns the value at a path of keys and of indexes like [0], or nil. An index leads into a sequence only.
func At(n *yaml.Node, path ...string) *yaml.Node {
	for _, step := range path {
		if n == nil || n.Kind != yaml.SequenceNode {
			n = Get(n, step)
			continue
		}
		i, err := strconv.Atoi(strings.Trim(step, "[]"))
		if err != nil || i < 0 || i >= len(n.Content) {
			return nil
		}
		n = n.Content[i]
	}
	return n
}
