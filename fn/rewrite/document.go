// Package rewrite writes a changed object into the text of the YAML document that it was read from, so that a diff
// shows what changed and nothing else: comments, indentation, anchors, quotes, folded texts and line ends of the rest
// stay. No text is returned that does not read as what is meant.
package rewrite

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// head finds comments and empty lines at the start of a text.
var head = regexp.MustCompile(`\A(---[ \t]*(#.*)?\n)?([ \t]*(#.*)?\n)*`)

// Document is the text of a document in which only that differs in which the item differs from it. The text is that of
// one document; "" is for a new one. What stands there already, in any style and order, is left alone.
func Document(was []byte, item *yaml.Node) ([]byte, error) {
	text := string(was)
	lf := strings.ReplaceAll(text, "\r\n", "\n")
	windows := len(text)-len(lf) > 0 && len(text)-len(lf) == strings.Count(lf, "\n")
	old := parse(lf)
	if old == nil && goesOn(lf) {
		return nil, describe(item, "", errors.New("its document goes on behind its end (...), where readers stop; put --- between documents"))
	}
	if old != nil && same(old, item) {
		return was, nil
	}
	after, ok := "", false
	if old != nil {
		after, ok = splice(lf, old, item)
	}
	if !ok {
		var err error
		if after, err = encodeWhole(lf, item); err != nil {
			return nil, err
		}
	}
	if windows {
		after = strings.ReplaceAll(after, "\n", "\r\n")
	}
	return []byte(after), nil
}

// parse is the value of a text with one document; nil where it holds another number, or cannot be read.
func parse(text string) *yaml.Node {
	var n, more yaml.Node
	decoder := yaml.NewDecoder(strings.NewReader(text))
	if decoder.Decode(&n) != nil || len(n.Content) != 1 || node.CheckAliases(&n) != nil || decoder.Decode(&more) == nil {
		return nil
	}
	return n.Content[0]
}

// goesOn tells whether a second document follows behind the end of the first.
func goesOn(text string) bool {
	var n yaml.Node
	decoder := yaml.NewDecoder(strings.NewReader(text))
	first := decoder.Decode(&n)
	return first == nil && decoder.Decode(&n) == nil
}

// reads tells whether a text reads as the item.
func reads(text string, item *yaml.Node) bool {
	again := parse(text)
	return again != nil && same(again, item)
}

// encodeWhole writes an item with the indentation and the head of the text that it was read from.
func encodeWhole(was string, item *yaml.Node) (string, error) {
	item = yaml.CopyYNode(item)
	if strings.HasPrefix(strings.TrimSpace(was), "{") {
		unfold(item) // JSON in which a part is YAML is neither
	}
	node.SettleStyles(item)
	style := yaml.SequenceIndentStyle(yaml.DeriveSeqIndentStyle(was))
	text, err := encode(item, style)
	if err != nil {
		return "", describe(item, "", err)
	}
	if comments := head.FindString(was); comments != "" {
		text = comments + strings.TrimPrefix(text, head.FindString(text))
	}
	again := parse(text)
	if again == nil || !same(again, item) {
		return "", describe(item, firstDifference(item, again), errors.New("cannot be written as YAML that reads the same; write the text in double quotes"))
	}
	return text, nil
}

// describe names object and field of an error.
func describe(item *yaml.Node, field string, err error) error {
	if field != "" {
		field += ": "
	}
	return fmt.Errorf("%s: %s%w", report.ObjectOf(yaml.NewRNode(item)), field, err)
}

func encode(n *yaml.Node, style yaml.SequenceIndentStyle) (string, error) {
	var text bytes.Buffer
	err := yaml.NewEncoderWithOptions(&text, &yaml.EncoderOptions{SeqIndent: style}).Encode(n)
	return text.String(), err
}

// unfold writes mappings and lists line by line.
func unfold(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode {
		n.Style &^= yaml.FlowStyle
	}
	for _, child := range n.Content {
		unfold(child)
	}
}
