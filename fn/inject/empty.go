package inject

import (
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// made are the places of a template where Apply makes a mapping or a list when there is none; without redirect rules
// there are more (resolverSpots).
var made = [][]string{{"spec", "initContainers"}, {"spec", "volumes"}, {"metadata"}, {"metadata", "labels"}, {"metadata", "annotations"}}

// spot is a place with what stands there; nil for nothing.
type spot struct {
	key   string // as pathKey has it
	value *yaml.Node
}

// emptyValues are the nulls at these places and the further ones, as YAML, by their path; "" when there are none. Strip
// would not find them again: it leaves an empty mapping or list, or nothing where Apply puts what is missing. The path
// begins with a dot, which the name of no container does: both stand in one annotation.
//
// A mapping or list that was written and empty is not among them. Strip leaves such ones as well, of an output that
// kustomize has sorted, and nothing tells the two apart.
func emptyValues(template *yaml.Node, further []spot) (string, error) {
	found := node.Object()
	note := func(s spot) {
		if isNull(s.value) {
			node.Set(found, s.key, s.value)
		}
	}
	for _, path := range made {
		note(spot{pathKey(path), node.Get(template, path...)})
	}
	for _, s := range further {
		note(s)
	}
	if len(found.Content) == 0 {
		return "", nil
	}
	return yaml.NewRNode(found).String()
}

// empties are the values of emptyValues as the annotation has them, by their path.
type empties map[string]*yaml.Node

// readEmpties reads what emptyValues wrote. What somebody has edited there counts for nothing.
func readEmpties(annotation *yaml.Node) empties {
	if annotation == nil {
		return nil
	}
	originals, err := yaml.Parse(annotation.Value)
	if err != nil {
		return nil // RestoreHandlers says so
	}
	found := empties{}
	n := originals.YNode()
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if key := n.Content[i].Value; strings.HasPrefix(key, ".") && isNull(n.Content[i+1]) {
			found[key] = n.Content[i+1]
		}
	}
	return found
}

func isNull(n *yaml.Node) bool {
	return n != nil && n.Kind == yaml.ScalarNode && n.ShortTag() == yaml.NodeTagNull
}

func pathKey(path []string) string { return "." + strings.Join(path, ".") }

// leave is for a key whose value holds nothing any more: it is what it was. Where that is not known it is removed if it
// stands last: there Apply put it, and will put it again. Elsewhere somebody wrote it, and taking it away would move it
// at the next injection.
func (e empties) leave(mapping *yaml.Node, key, path string) {
	if was := e[path]; was != nil {
		mapping.Content[node.Index(mapping, key)] = was
	} else if i := node.Index(mapping, key); i == len(mapping.Content)-1 && !slices.ContainsFunc(mapping.Content[i-1:], commented) {
		node.Drop(mapping, key)
	}
}

func commented(n *yaml.Node) bool {
	return n.HeadComment != "" || n.LineComment != "" || n.FootComment != ""
}
