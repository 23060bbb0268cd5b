package node

import (
	"bytes"
	"fmt"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// SettleStyles gives every text that the YAML encoder would change another style, in which it does not: literal, or
// else double quotes. The encoder adds line feeds to a folded text (>) with indented lines, at every write, and loses
// some line breaks and leading spaces of others. Whoever encodes the node later, as kpt and kustomize do with what a
// function returns, then writes what was meant. It returns the fields that it changed.
func SettleStyles(n *yaml.Node) (fields []string) {
	for i, child := range n.Content {
		step := ""
		switch {
		case n.Kind == yaml.MappingNode && i%2 == 1:
			step = n.Content[i-1].Value
		case n.Kind == yaml.SequenceNode:
			step = fmt.Sprintf("[%d]", i)
		}
		for _, field := range SettleStyles(child) {
			fields = append(fields, step+below(field))
		}
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != yaml.NodeTagString || isSafe(n) || survives(n) {
		return fields
	}
	for _, style := range []yaml.Style{yaml.LiteralStyle, yaml.DoubleQuotedStyle} {
		if n.Style = n.Style&yaml.TaggedStyle | style; survives(n) {
			break
		}
	}
	return []string{""}
}

// below joins a path to that of the node above it.
func below(path string) string {
	if path == "" || path[0] == '[' {
		return path
	}
	return "." + path
}

// isSafe tells of most texts, without a look at what the encoder makes of them, that it keeps them.
func isSafe(n *yaml.Node) bool {
	if n.Style&yaml.FoldedStyle != 0 {
		return false
	}
	for i := range len(n.Value) {
		if c := n.Value[i]; c < ' ' && c != '\n' || c > '~' {
			return false
		}
	}
	return !strings.HasPrefix(n.Value, "\n") && !strings.HasPrefix(n.Value, " ") && (!strings.Contains(n.Value, "\n") || n.Style&yaml.LiteralStyle != 0)
}

// survives tells whether a text is the same after it was written and read, as a value and as an entry of a list.
func survives(n *yaml.Node) bool {
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 && strings.ContainsAny(n.Value, "\r\u0085\u2028\u2029") {
		return false // one that ends a document ends it without a line feed
	}
	var text bytes.Buffer
	if err := yaml.NewEncoder(&text).Encode(Object("a", List(n, Object("b", n), Object("b", n)))); err != nil {
		return false
	}
	var again yaml.Node
	if err := yaml.NewDecoder(&text).Decode(&again); err != nil {
		return false
	}
	entries := Get(again.Content[0], "a").Content
	if len(entries) != 3 {
		return false
	}
	for _, read := range []*yaml.Node{entries[0], Get(entries[1], "b"), Get(entries[2], "b")} {
		if read == nil || read.Kind != yaml.ScalarNode || read.Value != n.Value || read.ShortTag() != yaml.NodeTagString {
			return false
		}
	}
	return true
}
