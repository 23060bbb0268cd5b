package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

// maxCandidates is how many workloads a message offers.
const maxCandidates = 3

// Candidates says, behind a colon, what a selector that selects nothing may have meant: workloads whose names are like
// the one that it names, or all, where they are few. It is empty where nobody can guess.
func Candidates(s v1alpha1.Selector, workloads []*Workload) string {
	missing := missingPart(s)
	if missing == "" {
		return ""
	}
	var alike []*Workload
	few := map[string]*Workload{}
	for _, w := range workloads {
		switch {
		case s.Kind != "" && !strings.EqualFold(s.Kind, w.Kind) && s.Name != w.Name:
		case !matchesGlob(s.Namespace, w.Namespace) && s.Name != w.Name:
		case similar(s.Name, w.Name):
			alike = append(alike, w)
		default:
			few[w.ID.String()] = w
		}
	}
	way := ": names are those after namePrefix and nameSuffix"
	if len(alike) == 0 {
		if way = ""; len(few) == 0 || len(few) > maxCandidates {
			return ": there is no " + missing
		}
		for _, w := range few {
			alike = append(alike, w)
		}
	}
	slices.SortFunc(alike, func(a, b *Workload) int {
		return cmp.Or(distance(s.Name, a.Name)-distance(s.Name, b.Name), cmp.Compare(a.ID.String(), b.ID.String()))
	})
	var names []string
	for _, w := range alike[:min(len(alike), maxCandidates)] {
		names = append(names, named(s, w))
	}
	return fmt.Sprintf(": there is no %s; there is %s%s", missing, strings.Join(names, ", "), way)
}

// missingPart is what a selector names, as in `StatefulSet "pg"`; "" where it goes by labels or patterns alone.
func missingPart(s v1alpha1.Selector) string {
	switch kind := cmp.Or(s.Kind, "workload"); {
	case s.Name != "" && !strings.ContainsAny(s.Name, "*?["):
		return fmt.Sprintf("%s %q", kind, s.Name)
	case s.Kind != "":
		return kind
	}
	return ""
}

// named is a workload with what tells it from what a selector names.
func named(s v1alpha1.Selector, w *Workload) string {
	name := fmt.Sprintf("%q", w.Name)
	if s.Kind != "" && !strings.EqualFold(s.Kind, w.Kind) || s.Kind == "" {
		name = w.Kind + " " + name
	}
	if !matchesGlob(s.Namespace, w.Namespace) {
		name += fmt.Sprintf(" in namespace %q", w.Namespace)
	}
	return name
}

// similar tells whether one name may have been meant by another: prefixed, suffixed, or mistyped.
func similar(meant, name string) bool {
	if meant == "" {
		return false
	}
	return strings.Contains(name, meant) || strings.Contains(meant, name) || distance(meant, name) <= max(1, len(meant)/4)
}

// distance is how many characters must be added, left out or changed to make one name of another (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			above := row[j+1]
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(above+1, row[j]+1, change)
			diagonal = above
		}
	}
	return row[len(b)]
}
