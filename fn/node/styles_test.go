package node_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// The script of a Job of sock-shop: the encoder adds a line feed at every write.
const folded = "args:\n- >\n  for f in a b ; do\n    echo start \\\n      --one \"$f\" ;\n  done ;\n  echo end\n"

func TestSettleStyles(t *testing.T) {
	n := yaml.MustParse(folded)
	want := node.Get(n.YNode(), "args").Content[0].Value
	if text := n.MustString(); node.Get(yaml.MustParse(text).YNode(), "args").Content[0].Value == want {
		t.Fatal("the encoder keeps this text now; take another")
	}
	if settled := node.SettleStyles(n.YNode()); !slices.Equal(settled, []string{"args[0]"}) || node.Get(n.YNode(), "args").Content[0].Style != yaml.LiteralStyle {
		t.Errorf("changed %v, want args[0], to literal style", settled)
	}
	if got := node.Get(yaml.MustParse(n.MustString()).YNode(), "args").Content[0].Value; got != want {
		t.Errorf("written as %q, want %q", got, want)
	}
	if settled := node.SettleStyles(n.YNode()); settled != nil {
		t.Errorf("a second time changes %v", settled)
	}
	const plain = "a: >-\n  folded without\n  more indentation\nb: |\n  x\nc: 'q'\nd: \"\\t\"\n"
	if n = yaml.MustParse(plain); node.SettleStyles(n.YNode()) != nil {
		t.Errorf("changes what the encoder keeps:\n%s", n.MustString())
	}
}

// FuzzSettleStyles looks for a text in some style, somewhere in an object, that is another once it was written.
func FuzzSettleStyles(f *testing.F) {
	for _, text := range []string{"", " ", "\n", "a\n  b\nc\n", "\n a", "  a\n b", "\t", "a\r\nb", "\r", "\u2028", "\u0085a\n", "\ufeff", "a: b", "- a", "# a", "a #b\n", "a\n\n\n", "é\n ü", "\x00", "---\n", strings.Repeat("word ", 99)} {
		for style := range uint8(6) {
			f.Add(text, style)
		}
	}
	styles := []yaml.Style{0, yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle, yaml.LiteralStyle, yaml.FoldedStyle, yaml.FlowStyle}
	f.Fuzz(func(t *testing.T, text string, style uint8) {
		if !utf8.ValidString(text) {
			return
		}
		value := node.Text(text)
		value.Style = styles[int(style)%len(styles)]
		object := node.Object("a", value, "b", node.Object("c", node.List(value, node.Object("d", value, "e", value))), "f", value)
		if value.Style == yaml.FlowStyle {
			value.Style, object.Style = 0, yaml.FlowStyle
		}
		node.SettleStyles(object)
		var out bytes.Buffer
		if err := yaml.NewEncoder(&out).Encode(object); err != nil {
			t.Fatal(err)
		}
		again, err := yaml.Parse(out.String())
		if err != nil {
			t.Fatalf("%v:\n%s", err, out.String())
		}
		entries := node.Get(again.YNode(), "b", "c").Content
		for i, got := range []*yaml.Node{node.Get(again.YNode(), "a"), entries[0], node.Get(entries[1], "d"), node.Get(entries[1], "e"), node.Get(again.YNode(), "f")} {
			if got.Value != text {
				t.Errorf("place %d holds %q, want %q:\n%s", i, got.Value, text, out.String())
			}
		}
	})
}
