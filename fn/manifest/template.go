package manifest

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// Template is one pod template of an item. Each is a workload with an identity of its own.
type Template struct {
	// Path leads to it from the top of the item: keys, and indexes of lists like [0]. Empty for a Pod.
	Path []string
	// Name is that of the workload: the item's, and a suffix that tells the templates of one item apart.
	Name string

	other string // the name that a render may have given instead, where the config is not known; else ""
}

// Field is the path of the template, for messages: spec.jobs[0].template.
func (t Template) Field() string { return FieldPath(t.Path) }

// Called tells whether a workload of this name is the template's.
func (t Template) Called(name string) bool {
	return name == t.Name || t.other != "" && name == t.other
}

// FieldPath joins keys and indexes to the path of a field.
func FieldPath(path []string) string {
	return strings.ReplaceAll(strings.Join(path, "."), ".[", "[")
}

// Templates are the pod templates of an item, and whether its kind is known at all. An item of a known kind may have
// none; Missing says whether it should.
func (k Kinds) Templates(item *yaml.RNode) (templates []Template, known bool) {
	paths, known := k[kindOf(item)]
	return templatesAt(item, resolveAll(item, paths), false), known
}

// Find is Templates for rendered items, whose config may be elsewhere: a mapping that carries the mark of an injection
// is a pod template, wherever it stands. A Service holds none: there the mark is a mistyped api.WorkloadsAnnotation.
func (k Kinds) Find(item *yaml.RNode) (templates []Template, known bool) {
	paths, known := k[kindOf(item)]
	if known && len(paths) == 1 && len(builtin[kindOf(item)]) == 1 || item.GetApiVersion() == "v1" && item.GetKind() == "Service" {
		return k.Templates(item)
	}
	found := resolveAll(item, paths)
	byMark := false
	for _, marked := range injectedAt(item.YNode(), nil, known) {
		if !slices.ContainsFunc(found, func(f []string) bool { return slices.Equal(f, marked) }) {
			found, byMark = append(found, marked), true
		}
	}
	return templatesAt(item, found, byMark), known || byMark
}

// resolveAll are the places of an item to which paths lead.
func resolveAll(item *yaml.RNode, paths [][]string) (found [][]string) {
	for _, path := range paths {
		found = append(found, resolve(item.YNode(), nil, path)...)
	}
	return found
}

// resolve are the places below n to which a path leads. What is missing or null on the way leads nowhere.
func resolve(n *yaml.Node, at, path []string) (found [][]string) {
	switch {
	case n == nil || n.Tag == yaml.NodeTagNull:
		return nil
	case len(path) == 0:
		return [][]string{slices.Clone(at)}
	case path[0] == v1alpha1.EveryEntry:
		if n.Kind != yaml.SequenceNode {
			return nil
		}
		for i, entry := range n.Content {
			found = append(found, resolve(entry, append(slices.Clone(at), fmt.Sprintf("[%d]", i)), path[1:])...)
		}
		return found
	}
	return resolve(node.Get(n, path[0]), append(slices.Clone(at), path[0]), path[1:])
}

// injectedAt are the paths of the mappings at or below n that carry the mark of an injection. The top of an item whose
// kind is known has it by mistake alone.
func injectedAt(n *yaml.Node, path []string, below bool) (found [][]string) {
	switch n.Kind {
	case yaml.SequenceNode:
		for i, child := range n.Content {
			found = append(found, injectedAt(child, append(slices.Clip(path), fmt.Sprintf("[%d]", i)), false)...)
		}
	case yaml.MappingNode:
		if !below && node.Get(n, "metadata", "annotations", api.WorkloadAnnotation) != nil {
			return [][]string{path}
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i+1].Kind != yaml.ScalarNode {
				found = append(found, injectedAt(n.Content[i+1], append(slices.Clip(path), n.Content[i].Value), false)...)
			}
		}
	}
	return found
}

// templatesAt gives the templates of an item their names. One alone has that of the item, as most have. Where some were
// found by their marks, there may be others without, so both names may be right.
func templatesAt(item *yaml.RNode, paths [][]string, byMark bool) []Template {
	var templates []Template
	taken := map[string]int{}
	for _, path := range paths {
		taken[suffix(item.YNode(), path, false)]++
	}
	for _, path := range paths {
		t := Template{Path: path, Name: item.GetName()}
		short := suffix(item.YNode(), path, false)
		switch {
		case len(paths) > 1:
			t.Name += "-" + suffix(item.YNode(), path, taken[short] > 1)
		case byMark && len(path) > 0:
			t.other = t.Name + "-" + short
		}
		templates = append(templates, t)
	}
	return templates
}

// suffix tells the template at a path from others of the item. It depends on the template's own place alone, and not on
// its index, so it stays when others come and go: the names of the list entries on the way, and behind them the last
// key that says more than "template". So spec.jobs[0].template is the job's name, and
// spec.leaderWorkerTemplate.workerTemplate is "worker". A long one has all of these keys, where the last is not enough.
func suffix(n *yaml.Node, path []string, long bool) string {
	var parts []string
	last := ""
	for _, step := range path {
		list := n.Kind == yaml.SequenceNode
		if n = node.At(n, step); n == nil {
			break
		}
		if name := entryName(n); list && name != "" {
			parts, last = append(parts, name), ""
		} else if told := telling(step); !list && told != "" {
			if long && last != "" {
				told = last + "-" + told
			}
			last = told
		}
	}
	if last != "" {
		parts = append(parts, last)
	}
	valid := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}
	if text := strings.Trim(strings.Map(valid, strings.ToLower(strings.Join(parts, "-"))), "-."); text != "" {
		return text
	}
	return "pod"
}

// entryName is what a list entry is called: its name, or else its only key that ends in Name, as groupName.
func entryName(entry *yaml.Node) string {
	if name := node.Scalar(entry, "name"); name != "" || entry.Kind != yaml.MappingNode {
		return name
	}
	found := ""
	for i := 0; i+1 < len(entry.Content); i += 2 {
		if strings.HasSuffix(entry.Content[i].Value, "Name") && entry.Content[i+1].Kind == yaml.ScalarNode {
			if found != "" {
				return ""
			}
			found = entry.Content[i+1].Value
		}
	}
	return found
}

// telling is what a key says beside that it holds a template or a spec; "" for nothing.
func telling(key string) string {
	key = strings.ToLower(key)
	for _, common := range []string{"templates", "template", "specs", "spec"} {
		key = strings.TrimSuffix(key, common)
	}
	if key == "pod" || key == "job" {
		return ""
	}
	return key
}

// gaps are the fields at which entries of lists have no template, where the config says that the list's entries do.
func (k Kinds) gaps(item *yaml.RNode) (fields []string) {
	for _, path := range k[kindOf(item)] {
		last := -1
		for i, step := range path {
			if step == v1alpha1.EveryEntry {
				last = i
			}
		}
		if last < 0 {
			continue
		}
		for _, entry := range resolve(item.YNode(), nil, path[:last+1]) {
			if len(resolve(node.At(item.YNode(), entry...), nil, path[last+1:])) == 0 {
				fields = append(fields, report.Below(FieldPath(entry), FieldPath(path[last+1:])))
			}
		}
	}
	return fields
}

// Missing is the path at which an item of a known kind should have a pod template, and has none; "" where it has one or
// needs none: it refers to that of another object, or its list of them is empty.
func (k Kinds) Missing(item *yaml.RNode) string {
	templates, known := k.Templates(item)
	if _, refers := ReferenceOf(item); !known || len(templates) > 0 || refers {
		return ""
	}
	for _, path := range k[kindOf(item)] {
		if slices.Contains(path, v1alpha1.EveryEntry) && len(PodFields(item)) == 0 {
			return ""
		}
	}
	return FieldPath(k[kindOf(item)][0])
}
