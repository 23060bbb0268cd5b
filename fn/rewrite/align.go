package rewrite

import (
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// pair are the indexes of an item before and after.
type pair struct{ old, item int }

// maxAligned bounds what is compared: a list of hundreds of items that differ is written anew.
const maxAligned = 1 << 16

// align finds the items of one list in another, in their order: the longest common subsequence.
func align(old, item []*yaml.Node) (pairs []pair) {
	if len(old)*len(item) > maxAligned {
		return nil
	}
	length := make([][]int, len(old)+1)
	for i := range length {
		length[i] = make([]int, len(item)+1)
	}
	match := func(i, j int) bool { return isSameItem(old[i], item[j]) }
	for i := len(old) - 1; i >= 0; i-- {
		for j := len(item) - 1; j >= 0; j-- {
			if match(i, j) {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	for i, j := 0, 0; i < len(old) && j < len(item); {
		switch {
		case match(i, j):
			pairs = append(pairs, pair{i, j})
			i, j = i+1, j+1
		case length[i+1][j] >= length[i][j+1]:
			i++
		default:
			j++
		}
	}
	return pairs
}

// isSameItem tells whether two items are the same or, in lists of what has a name, have the same.
func isSameItem(a, b *yaml.Node) bool {
	name, other := node.Get(resolved(a), "name"), node.Get(resolved(b), "name")
	if name != nil && other != nil {
		return same(name, other)
	}
	return same(a, b)
}
