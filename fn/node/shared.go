package node

import (
	"encoding/binary"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// Shared keeps one node for all that say the same. What an injection adds is nearly the same in every workload, and a
// node takes 160 bytes and its texts. The zero value is ready.
type Shared struct {
	nodes map[string]*yaml.Node // by what they say
	ids   map[*yaml.Node]uint64 // of nodes
	key   []byte
}

// Of returns the node that stands for n, which must be built by this package and not be changed from now on: below
// other nodes it would change too.
func (s *Shared) Of(n *yaml.Node) *yaml.Node {
	if s.nodes == nil {
		s.nodes, s.ids = map[string]*yaml.Node{}, map[*yaml.Node]uint64{}
	}
	for i, child := range n.Content {
		n.Content[i] = s.Of(child)
	}
	key := binary.AppendUvarint(s.key[:0], uint64(n.Kind))
	key = binary.AppendUvarint(key, uint64(n.Style))
	for _, text := range []string{n.Tag, n.Value} {
		key = append(binary.AppendUvarint(key, uint64(len(text))), text...)
	}
	for _, child := range n.Content {
		key = binary.AppendUvarint(key, s.ids[child])
	}
	s.key = key
	if known := s.nodes[string(key)]; known != nil {
		return known
	}
	s.nodes[string(key)], s.ids[n] = n, uint64(len(s.ids)+1)
	return n
}
