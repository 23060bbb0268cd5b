package node

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	k8sjson "sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// The search for fields is bounded, since each costs a decoding for every scalar.
const (
	maxMistakes = 20
	maxSearched = 2000 // nodes
)

// everyField names the field of a decoding error, and those of the errors that it hides: a decoder stops at the first,
// and a type with a parser of its own does not know where it stands. A field is found by leaving out one scalar at a
// time.
func everyField(n *yaml.RNode, err error, into reflect.Type) error {
	var all []error
	left := n.Copy()
	paths := map[*yaml.Node]string{}
	pathsOf(left.YNode(), "", paths)
	if len(paths) > maxSearched {
		return err
	}
	for err != nil && len(all) < maxMistakes {
		path, message := FieldOf(err)
		before := err
		culprit := leaveOut(left.YNode(), func() bool {
			after := decodeError(left, into)
			if after != nil && after.Error() == before.Error() {
				return false
			}
			err = after
			return true
		})
		if culprit == nil {
			return errors.Join(append(all, before)...)
		}
		if path == "" {
			path = paths[culprit]
		}
		all = append(all, FieldError{path, message})
	}
	return errors.Join(all...)
}

func decodeError(n *yaml.RNode, into reflect.Type) error {
	data, err := JSON(n)
	if err != nil {
		return err
	}
	_, err = k8sjson.UnmarshalStrict(data, reflect.New(into).Interface())
	return describe(err, data)
}

// pathsOf keeps the path of every node below n.
func pathsOf(n *yaml.Node, path string, paths map[*yaml.Node]string) {
	for i, child := range n.Content {
		switch {
		case n.Kind == yaml.SequenceNode:
			paths[child] = fmt.Sprintf("%s[%d]", path, i)
		case n.Kind == yaml.MappingNode && i%2 == 1 && path == "":
			paths[child] = n.Content[i-1].Value
		case n.Kind == yaml.MappingNode && i%2 == 1:
			paths[child] = path + "." + n.Content[i-1].Value
		default:
			continue
		}
		pathsOf(child, paths[child], paths)
	}
}

// leaveOut takes one scalar after the other out of n and puts it back, until the answer is yes. It returns that one,
// which stays out, or nil.
func leaveOut(n *yaml.Node, enough func() bool) *yaml.Node {
	step := 1
	if n.Kind == yaml.MappingNode {
		step = 2 // with its key
	}
	for i := step - 1; i < len(n.Content); i += step {
		child, whole := n.Content[i], n.Content
		if child.Kind != yaml.ScalarNode {
			if found := leaveOut(child, enough); found != nil {
				return found
			}
			continue
		}
		n.Content = slices.Delete(slices.Clone(whole), i-step+1, i+1)
		if enough() {
			return child
		}
		n.Content = whole
	}
	return nil
}
