// Package netset holds the sets in which exclusions are said: TCP ports, networks, interfaces and users. Each has one
// text form, one strict parser, and the same methods; two equal sets have one spelling.
package netset

import (
	"slices"
	"strings"
)

// parseList reads what stands between commas, without the blanks around it; a blank text is the empty list.
func parseList[E any](s string, parse func(string) (E, error)) ([]E, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var list []E
	for part := range strings.SplitSeq(s, ",") {
		e, err := parse(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// joinList is the text that parseList reads.
func joinList[E any](list []E, text func(E) string) string {
	parts := make([]string, len(list))
	for i, e := range list {
		parts[i] = text(e)
	}
	return strings.Join(parts, ",")
}

// union is what is in any of the sets, each once, sorted.
func union[S ~[]E, E comparable](set S, others []S, compare func(a, b E) int) S {
	all := slices.Concat(append([]S{set}, others...)...)
	slices.SortFunc(all, compare)
	return slices.Compact(all)
}
