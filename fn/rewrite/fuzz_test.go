package rewrite_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/rewrite"
)

// FuzzWriteKeepsValues looks for a file in which a change of one field changes another one, or is not what was meant.
// The text is a file of one or more documents; the value is given to a field that is chosen by number.
func FuzzWriteKeepsValues(f *testing.F) {
	for _, text := range []string{full, folded, "a:\n- b: c\n  d: e\n-   f\n", "a: &x\n  b: 1\nc: *x\n", "a: |+\n  b\n\n\nc: >-\n  d\n   e\n", "a:\r\n  - b\r\n", "---\n# c\n---\na: {b: [c, d]}\n...\n", "a:\n  b:\n  # c\n  - d\n\n  # e\nf: g", "a: |\n b", "? a\n: b\n", "<<: {a: b}\n"} {
		for _, value := range []string{"x", "", " a\n b", "a\n  b\nc\n", "\r\n", "\u2028", "\u2028\n", "# a", "- a"} {
			f.Add(text, value, uint16(3), uint8(0))
			f.Add(text, value, uint16(11), uint8(4))
		}
	}
	styles := []yaml.Style{0, yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle, yaml.LiteralStyle, yaml.FoldedStyle}
	f.Fuzz(func(t *testing.T, text, value string, at uint16, style uint8) {
		file := rewrite.Split([]byte(text))
		before, after := file.Values(), file.Values()
		if !utf8.ValidString(value) || len(before) == 0 || node.CheckText([]byte(text)) != nil {
			return
		}
		meant := map[int]*yaml.Node{}
		for i, n := range after {
			if node.CheckItem(yaml.NewRNode(n)) != nil || hasOddKey(n) || node.HasAlias(n) && yaml.NewRNode(n).DeAnchor() != nil {
				return // a render refuses it
			}
			meant[i] = n
		}
		if fields := scalars(after[0]); len(fields) > 0 {
			field := fields[int(at)%len(fields)]
			field.SetString(value)
			field.Style = styles[int(style)%len(styles)]
		}
		written, err := file.Rewrite(meant, nil)
		if err != nil {
			if strings.Contains(err.Error(), "goes on behind its end") {
				return
			}
			t.Fatalf("%v\n%s", err, text)
		}
		again := rewrite.Split(written).Values()
		if len(again) != len(after) {
			t.Fatalf("%d objects are %d:\n%s\n--\n%s", len(after), len(again), text, written)
		}
		for i := range again {
			if !rewrite.Same(again[i], after[i]) {
				t.Errorf("object %d reads differently:\n%s\n--\n%s", i, text, written)
			}
		}
		twice, err := rewrite.Split(written).Rewrite(meant, nil)
		if err != nil || !bytes.Equal(written, twice) {
			t.Errorf("%v; a second time it is\n%s\n--\n%s", err, written, twice)
		}
		if back, err := file.Rewrite(index(before), nil); err != nil || string(back) != text {
			t.Errorf("%v; without a change it is\n%s\n--\n%s", err, text, back)
		}
	})
}

func index(values []*yaml.Node) map[int]*yaml.Node {
	indexed := map[int]*yaml.Node{}
	for i, n := range values {
		indexed[i] = n
	}
	return indexed
}

// hasOddKey tells of keys that no JSON has.
func hasOddKey(n *yaml.Node) bool {
	for i, child := range n.Content {
		if hasOddKey(child) || n.Kind == yaml.MappingNode && i%2 == 0 && child.ShortTag() != yaml.NodeTagString && child.ShortTag() != "!!merge" {
			return true
		}
	}
	return false
}

// scalars are the values at and below a node that are neither keys nor collections.
func scalars(n *yaml.Node) (found []*yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		return []*yaml.Node{n}
	}
	for i, child := range n.Content {
		if n.Kind != yaml.MappingNode || i%2 == 1 {
			found = append(found, scalars(child)...)
		}
	}
	return found
}
