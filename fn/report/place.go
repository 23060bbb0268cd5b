package report

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/GoogleContainerTools/kpt-functions-sdk/go/fn"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// place is where an object stands.
type place struct {
	file  string
	index int
	node  *yaml.Node // the object, for its lines; nil where they are not known
	call  int        // of Locate, that noted it
	built bool       // kustomize has changed the object, so its lines are not the file's
}

// Locate notes in which files the items stand, as their annotations say, so that findings name them. Of several items
// of one name the first counts, and ErrorIn names the others. What a List holds stands where the List does. The items
// may be malformed. A second call is about copies of the same items.
func (r *Report) Locate(items []*yaml.RNode) {
	if r.located++; r.places == nil {
		r.places, r.nodes = map[Object]place{}, map[*yaml.Node]place{}
	}
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
		} else {
			r.nodes[item.YNode()] = place{} // not where another of that name stands
		}
	}
}

func (r *Report) locate(n *yaml.Node, at place) {
	if r.Lines && !at.built {
		at.node = n
	}
	o := ObjectOf(yaml.NewRNode(n))
	at.call = r.located
	if known, ok := r.places[o]; !ok || known.call < at.call {
		r.places[o] = at
	}
	r.nodes[n] = at
	if list := node.Get(n, "items"); o.Kind == "List" && list != nil && list.Kind == yaml.SequenceNode {
		for _, part := range list.Content {
			r.locate(part, at)
		}
	}
}

// LocateAt notes that an object stands in the place of another, which holds its text.
func (r *Report) LocateAt(o, in Object) {
	if at, known := r.places[in]; known {
		r.places[o] = place{file: at.file, index: at.index}
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
	if file == "" {
		return place{file: originOf(n), built: true}
	}
	index, err := strconv.Atoi(text)
	if err != nil {
		index = 0
	}
	return place{file: file, index: index}
}

// originOf is the file that kustomize says an object comes from, with `buildMetadata: [originAnnotations]`; that of a
// generated one is the kustomization.
func originOf(n *yaml.Node) string {
	text := node.Scalar(n, "metadata", "annotations", originAnnotation)
	if text == "" {
		return ""
	}
	origin, err := yaml.Parse(text)
	if err != nil || origin.YNode().Kind != yaml.MappingNode {
		return ""
	}
	return cmp.Or(node.Scalar(origin.YNode(), "path"), node.Scalar(origin.YNode(), "configuredIn"))
}

const originAnnotation = "config.kubernetes.io/origin"

// ErrorIn is Error about one item of the input. Where several items are called alike, as a patch and what it patches
// are, or have no name at all, the object does not say which file is meant, and the item does.
func (r *Report) ErrorIn(item *yaml.RNode, field, format string, args ...any) {
	r.addAt(r.placeIn(item), fn.Error, ObjectOf(item), field, format, args...)
}

// Where says where an item stands, behind a word, like " in apps/web.yaml:7"; "" where that is not known.
func (r *Report) Where(word string, item *yaml.RNode) string {
	at := r.placeIn(item)
	if at.file == "" {
		return ""
	}
	return word + " " + strings.Trim(inFile(at.file, at.line("")), " ()")
}

// placeIn is the place of an item, or that of its object.
func (r *Report) placeIn(item *yaml.RNode) place {
	if yaml.IsMissingOrNull(item) {
		return place{}
	}
	if at, known := r.nodes[item.YNode()]; known {
		return at
	}
	return r.places[ObjectOf(item)]
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
