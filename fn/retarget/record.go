package retarget

import (
	"errors"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// annotationsKey is the key of a record under which stands what the annotations were, where they were empty.
const annotationsKey = "annotations"

// attach writes a record into an annotation of an item: a mapping, as YAML, since quotes, comments and flow style of
// what it holds survive there.
func attach(item *yaml.RNode, key string, record *yaml.Node) error {
	metadata := node.Child(item.YNode(), "metadata")
	if was := node.Get(metadata, annotationsKey); was != nil && len(was.Content) == 0 {
		node.Set(record, annotationsKey, was)
		node.Set(metadata, annotationsKey, node.Object())
	}
	text, err := yaml.NewRNode(record).String()
	if err != nil {
		return err
	}
	insert(node.Child(metadata, annotationsKey), key, node.Literal(text))
	return nil
}

// detach takes the record out of an item again; nil where it has none.
func detach(item *yaml.RNode, key string) (*yaml.Node, error) {
	metadata := node.Get(item.YNode(), "metadata")
	annotations := node.Get(metadata, annotationsKey)
	text := node.Get(annotations, key)
	if text == nil {
		return nil, nil
	}
	record, err := yaml.Parse(text.Value)
	if err != nil || record.YNode().Kind != yaml.MappingNode {
		return nil, errors.New("is not what a render writes there: restore the object from Git, or write what it said before, and take the annotation out")
	}
	node.Drop(annotations, key)
	if len(annotations.Content) == 0 {
		restore(metadata, annotationsKey, node.Get(record.YNode(), annotationsKey))
	}
	return record.YNode(), nil
}

// restore gives a key, whose value is empty now, the value that it had; nil is for a key that was not there.
func restore(mapping *yaml.Node, key string, was *yaml.Node) {
	if was == nil {
		node.Drop(mapping, key)
	} else {
		node.Set(mapping, key, was)
	}
}

// insert gives a mapping a new key, before the first that comes after it in the alphabet: there tools sort it to, and a
// render of what they sorted changes nothing.
func insert(mapping *yaml.Node, key string, value *yaml.Node) {
	if node.Index(mapping, key) >= 0 || len(mapping.Content) == 0 {
		node.Set(mapping, key, value)
		return
	}
	at := len(mapping.Content)
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value > key {
			at = i
			break
		}
	}
	insertAt(mapping, at, key, value)
}

// insertAt puts a key and its value at an index of the content of a mapping.
func insertAt(mapping *yaml.Node, at int, key string, value *yaml.Node) {
	content := append([]*yaml.Node{}, mapping.Content[:at]...)
	content = append(content, node.Text(key), value)
	mapping.Content = append(content, mapping.Content[at:]...)
}
