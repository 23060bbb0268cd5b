package cli

import (
	"bytes"
	"regexp"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// separator is what kyaml's reader splits files at, before it reads the parts one by one.
var separator = regexp.MustCompile(`\n---.*\n`)

// documentStarts are how many lines stand in a file before each of its documents. The reader leaves empty ones out.
func documentStarts(text []byte) []int {
	var starts []int
	from := 0
	for _, end := range append(separator.FindAllIndex(text, -1), []int{len(text), len(text)}) {
		if document := text[from:end[0]]; !isEmpty(document) {
			starts = append(starts, bytes.Count(text[:from], []byte("\n")))
		}
		from = end[1]
	}
	return starts
}

// isEmpty tells whether a document holds comments at most.
func isEmpty(document []byte) bool {
	for line := range bytes.Lines(document) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && !bytes.HasPrefix(line, []byte("---")) {
			return false
		}
	}
	return true
}

// numberLines makes the lines of items, which the reader counts within each document, those of their files.
func numberLines(items []*yaml.RNode, starts map[string][]int) {
	byFile := map[string][]*yaml.RNode{}
	for _, item := range items {
		file := pathOf(item)
		byFile[file] = append(byFile[file], item)
	}
	for file, items := range byFile {
		numberDocuments(items, starts[file])
	}
}

// numberDocuments does so for one file. A List that is its only document was taken apart, and its lines are right.
func numberDocuments(items []*yaml.RNode, starts []int) {
	for i, item := range items {
		if len(items) == len(starts) {
			shiftLines(item.YNode(), starts[i])
		} else if len(starts) != 1 {
			shiftLines(item.YNode(), -1) // none is better than a wrong one
		}
	}
}

// shiftLines adds to the line numbers at and below n; a negative shift takes them away.
func shiftLines(n *yaml.Node, by int) {
	switch {
	case by == 0:
		return
	case by < 0:
		n.Line = 0
	case n.Line > 0: // what the reader adds has none
		n.Line += by
	}
	for _, child := range n.Content {
		shiftLines(child, by)
	}
}
