package report

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// place is where an object stands.
type place struct {
	file  string
	index int
	node  *yaml.Node // the object, for its lines; nil where they are not known
}

// Locate notes in which files the items stand, as their annotations say, so that findings name them. Of several items
// of one name the last counts: that is the one too many. What a List holds stands where the List does. The items may be
// malformed.
func (r *Report) Locate(items []*yaml.RNode) {
	for i, item := range items {
		if yaml.IsMissingOrNull(item) {
			continue
		}
		at := placeOf(item.YNode())
		if r.File != "" {
			at = place{file: r.File, index: i}
		}
		if at.file != "" {
			r.locate(item.YNode(), at)
		}
	}
}

func (r *Report) locate(n *yaml.Node, at place) {
	if r.Lines {
		at.node = n
	}
	if r.places == nil {
		r.places = map[Object]place{}
	}
	o := ObjectOf(yaml.NewRNode(n))
	r.places[o] = at
	if list := node.Get(n, "items"); o.Kind == "List" && list != nil && list.Kind == yaml.SequenceNode {
		for _, part := range list.Content {
			r.locate(part, at)
		}
	}
}

func placeOf(n *yaml.Node) place {
	if n.Kind != yaml.MappingNode {
		return place{}
	}
	if metadata := node.Get(n, "metadata"); metadata == nil || metadata.Kind != yaml.MappingNode {
		return place{}
	}
	file, text, err := kioutil.GetFileAnnotations(yaml.NewRNode(n))
	if err != nil {
		return place{}
	}
	index, err := strconv.Atoi(text)
	if err != nil {
		index = 0
	}
	return place{file: file, index: index}
}

// NameOf names an item in the message of another's finding: its object, and the file where that is known.
func NameOf(item *yaml.RNode) string {
	return ObjectOf(item).String() + inFile(placeOf(item.YNode()).file, 0)
}

// inFile is " (file:line)", without what is not known.
func inFile(file string, line int) string {
	switch {
	case file == "":
		return ""
	case line == 0:
		return " (" + file + ")"
	}
	return fmt.Sprintf(" (%s:%d)", file, line)
}

// line is that of a field, or of the innermost that holds it and knows its line.
func (p place) line(field string) int {
	if p.node == nil {
		return 0
	}
	line := p.node.Line
	for n := p.node; n != nil && field != ""; {
		var step string
		step, field = firstStep(field)
		named := n // what the step names, and stands where a reader looks for it
		switch i := node.Index(n, step); {
		case i >= 0:
			named, n = n.Content[i-1], n.Content[i]
		case n.Kind == yaml.SequenceNode:
			n = entry(n, step)
			named = n
		default:
			return line
		}
		if named != nil {
			line = cmp.Or(named.Line, line)
		}
	}
	return line
}

// firstStep takes the first name, index or key off a path.
func firstStep(path string) (step, rest string) {
	if inner, bracketed := strings.CutPrefix(path, "["); bracketed {
		step, rest, _ = strings.Cut(inner, "]")
		return step, strings.TrimPrefix(rest, ".")
	}
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		return path, ""
	}
	return path[:end], strings.TrimPrefix(path[end:], ".")
}

func entry(list *yaml.Node, index string) *yaml.Node {
	i, err := strconv.Atoi(index)
	if err != nil || i < 0 || i >= len(list.Content) {
		return nil
	}
	return list.Content[i]
}
