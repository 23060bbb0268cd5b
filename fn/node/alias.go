package node

import (
	"errors"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// maxExpanded bounds how large an object may be once its aliases are written out; a pod of a thousand containers stays far below.
const maxExpanded = 1 << 20

// CheckAliases refuses YAML whose aliases contain themselves, or grow beyond any real object when they are written out ("billion laughs"). Libraries
// follow aliases without looking, and a stack overflow cannot be recovered from, so this comes before anything else.
func CheckAliases(n *yaml.Node) error {
	sizes := map[*yaml.Node]int{} // expanded sizes; 0 while the node is being measured
	var measure func(n *yaml.Node) (int, error)
	measure = func(n *yaml.Node) (int, error) {
		if n == nil {
			return 0, nil
		}
		if size, seen := sizes[n]; seen {
			if size == 0 {
				return 0, errors.New("holds a YAML alias that contains itself")
			}
			return size, nil
		}
		sizes[n] = 0
		total := 1
		for _, child := range append([]*yaml.Node{n.Alias}, n.Content...) {
			size, err := measure(child)
			if err != nil {
				return 0, err
			}
			if total += size; total > maxExpanded {
				return 0, errors.New("is too large once its YAML aliases are written out")
			}
		}
		sizes[n] = total
		return total, nil
	}
	_, err := measure(n)
	return err
}
