package kustomize

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

// Find finds the function's config among the entries of `transformers:`. There is one, and it is the last.
func Find(entries []string, read func(entry string) ([]*yaml.RNode, error)) (at int, config *yaml.RNode, err error) {
	for i, entry := range entries {
		items, err := read(entry)
		if err != nil {
			return 0, nil, fmt.Errorf("transformers: %q: %w", firstLine(entry), err)
		}
		found, err := configIn(items, entry)
		switch {
		case err != nil:
			return 0, nil, err
		case found == nil:
			continue
		case config != nil:
			return 0, nil, fmt.Errorf("transformers: %q and %q hold a MutualTLS each; one render has one config: put them together", firstLine(entries[at]), firstLine(entry))
		}
		at, config = i, found
	}
	switch {
	case config == nil:
		return 0, nil, ErrNoTransformer
	case at != len(entries)-1:
		return 0, nil, fmt.Errorf("transformers: %q must be the last, so that it sees final names", cmp.Or(firstLine(entries[at]), "MutualTLS"))
	}
	return at, config, nil
}

// configIn is the MutualTLS of an entry; nil when it holds none.
func configIn(items []*yaml.RNode, entry string) (*yaml.RNode, error) {
	i := slices.IndexFunc(items, isConfig)
	switch {
	case i < 0:
		return nil, nil
	case len(items) > 1:
		return nil, fmt.Errorf("transformers: %q holds other objects beside the MutualTLS; give it a file of its own", firstLine(entry))
	}
	return items[i], nil
}

func isConfig(item *yaml.RNode) bool {
	return item.GetKind() == v1alpha1.KindMutualTLS && item.GetApiVersion() == v1alpha1.APIVersion
}

// firstLine is a name for an entry, which can be YAML of many lines.
func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
