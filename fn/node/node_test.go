package node_test

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

func TestCheckAliases(t *testing.T) {
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x]\n"
	for i := range 8 {
		n := string(rune('0' + i))
		m := string(rune('1' + i))
		bomb += "a" + m + ": &a" + m + " [" + strings.Repeat("*a"+n+", ", 8) + "]\n"
	}
	for name, test := range map[string]struct{ text, want string }{
		"none":       {"a: {b: c}", ""},
		"shared":     {"a: &x {b: c}\nd: *x\ne: {f: *x}", ""},
		"itself":     {"a: &x {b: *x}", "contains itself"},
		"in a list":  {"a: &x [1, [*x]]", "contains itself"},
		"as its key": {"? &x {a: *x}\n: b", "contains itself"},
		"bomb":       {bomb, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			var document yaml.Node
			if err := yaml.NewDecoder(strings.NewReader(test.text)).Decode(&document); err != nil {
				t.Fatal(err)
			}
			err := node.CheckAliases(&document)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestCheckItem(t *testing.T) {
	many := "kind: A\n"
	for i := range 100 {
		many += "k" + strconv.Itoa(i) + ": 1\n"
	}
	for name, test := range map[string]struct{ text, want string }{
		"good":         {"apiVersion: v1\nkind: A\nmetadata: {name: a, annotations: {a: b}, labels: }", ""},
		"many keys":    {many, ""},
		"list":         {"[a]", "is no object"},
		"text":         {"hello", "is no object"},
		"twice":        {"a: 1\nb: {c: [{d: 1, d: 2}]}", `holds the key "d" twice`},
		"twice of all": {many + "k5: 2", `holds the key "k5" twice`},
		"metadata":     {"metadata: x", "metadata is not a mapping"},
		"annotations":  {"metadata: {annotations: [a]}", "metadata.annotations is not a mapping"},
		"alias":        {"a: &x {b: *x}", "contains itself"},
	} {
		t.Run(name, func(t *testing.T) {
			err := node.CheckItem(yaml.MustParse(test.text))
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// Edits keep everything else as it is, and undo each other.
func TestEdits(t *testing.T) {
	const text = "b: 1 # one\na: {x: 'y'}\nempty: {}\n"
	n := yaml.MustParse(text)
	node.Set(n.YNode(), "c", node.Object("d", []string{"true", "e"}, "f", 3, "g", false))
	node.Set(node.Child(n.YNode(), "empty"), "k", node.Literal("two\nlines\n"))
	want := "b: 1 # one\na: {x: 'y'}\nempty:\n  k: |\n    two\n    lines\nc:\n  d:\n  - \"true\"\n  - e\n  f: 3\n  g: false\n"
	if got := n.MustString(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	node.Drop(n.YNode(), "c")
	node.Drop(n.YNode(), "nothing")
	if node.Get(n.YNode(), "a", "x").Value != "y" || node.Get(n.YNode(), "a", "x", "deeper") != nil || node.Index(n.YNode(), "c") != -1 {
		t.Error("Get, Drop or Index is wrong")
	}
	if seq := node.Sequence(n.YNode(), "list"); seq.Kind != yaml.SequenceNode || node.Sequence(n.YNode(), "list") != seq {
		t.Error("Sequence must make a list once")
	}
}

// JSON says what kyaml's own conversion says, for everything that manifests hold.
func TestJSON(t *testing.T) {
	const text = `
a: {s: x, q: "1", o: on, n: ~, e: "", t: 2026-01-01, i: 1000730000, big: 9007199254740993, hex: 0x10, oct: 0o17, f: 2.50, exp: 1e3, b: true, l: [1, [2], {}]}
base: &base {k: v}
alias: *base
merged: {<<: *base, own: 1}
<<: *base
1: number
lines: |
  one
  two
html: <a&b>
texts: ["quote \" and \\ slash", "tab\tnew\nline", "ü", "\u2028", "\x7f", "\U0001F512", '', ' ']
ints: [0, -1, 7, 007, +5, 1_000, 0b11, 999999999999999999, 9223372036854775807, 18446744073709551615, !!int "12"]
bools: [true, True, FALSE, !!bool "true"]
`
	n := yaml.MustParse(text)
	got, err := node.JSON(n)
	if err != nil {
		t.Fatal(err)
	}
	want, err := n.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var g, w any
	if json.Unmarshal(got, &g) != nil || json.Unmarshal(want, &w) != nil {
		t.Fatalf("no JSON: %s", got)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Error(diff)
	}
}

// TestShared: what says the same is one node, what differs in anything is another, and all say what they said.
func TestShared(t *testing.T) {
	build := func() []*yaml.Node {
		return []*yaml.Node{
			node.Object("a", "b", "c", node.List("d", 1)), node.Object("a", "b", "c", node.List("d", "1")), node.Object("a", "bc", "", node.List("d", 1)),
			node.Object("c", node.List("d", 1), "a", "b"), node.List("a", "b", node.List("d", 1)), node.List(node.List("a"), "b"), node.List(node.List("a", "b")),
			node.Text("x"), node.Literal("x"), node.Value(true), node.Text("true"), node.Object(), node.List(), node.Text(""),
		}
	}
	shared := &node.Shared{}
	seen := map[*yaml.Node]int{}
	for i, n := range build() {
		first := shared.Of(n)
		if other, twice := seen[first]; twice {
			t.Errorf("%d and %d are one node", other, i)
		}
		seen[first] = i
		if got, want := yaml.NewRNode(first).MustString(), yaml.NewRNode(build()[i]).MustString(); got != want {
			t.Errorf("%d says %q, want %q", i, got, want)
		}
		if again := shared.Of(build()[i]); again != first {
			t.Errorf("%d is two nodes", i)
		}
	}
	if inner := shared.Of(node.Object("a", "b", "c", node.List("d", 1))); shared.Of(node.List("d", 1)) != inner.Content[3] {
		t.Error("a part is not shared")
	}
}

// FieldOf gives errors of both kinds of decoding with their field.
func TestFieldOf(t *testing.T) {
	var into struct {
		Spec struct {
			Ports []struct {
				Port int `json:"port"`
			} `json:"ports"`
		} `json:"spec"`
	}
	mistakes, err := node.DecodeStrict(yaml.MustParse("{spec: {ports: [{port: 1}, {prot: 2}]}}"), &into)
	if err != nil || len(mistakes) != 1 {
		t.Fatalf("got %v, %v", mistakes, err)
	}
	if path, message := node.FieldOf(mistakes[0]); path != "spec.ports[1].prot" || message != `unknown field "spec.ports[1].prot"` {
		t.Errorf("got %q, %q", path, message)
	}
	err = node.Decode(yaml.MustParse("{spec: {ports: [{port: a}]}}"), &into)
	if path, message := node.FieldOf(err); path != "spec.ports[0].port" || message != "is a string where a number belongs" {
		t.Errorf("got %q, %q", path, message)
	}
	if path, message := node.FieldOf(errors.New("is broken")); path != "" || message != "is broken" {
		t.Errorf("got %q, %q", path, message)
	}
}

// TestOddKey: {{ cpu }}, of a template that nobody rendered, is a mapping whose key is a mapping.
func TestOddKey(t *testing.T) {
	for name, test := range map[string]struct{ text, path string }{
		"in a mapping": {"a: {b: {cpu: {{ cpu }}}}", "a.b.cpu"},
		"in a list":    {"a: {b: [x, {c: {{ cpu }}}]}", "a.b[1].c"},
		"an entry":     {"a: [{? [x] : y}]", "a[0]"},
		"in quotes":    {"a: '{{ cpu }}'", ""},
		"a number":     {"a: {1: b}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var into map[string]any
			err := node.Decode(yaml.MustParse(test.text), &into)
			if test.path == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if path, message := node.FieldOf(err); path != test.path || !strings.Contains(message, "has a key that is no text") {
				t.Errorf("got %q, %q", path, message)
			}
		})
	}
}

// TestTextOfOldYAML: Kubernetes reads YAML 1.1.
func TestTextOfOldYAML(t *testing.T) {
	for _, text := range []string{"y", "N", "yes", "no", "on", "Off", "12:30", "-1:20.5", "true", "010", "~"} {
		written, err := yaml.NewRNode(node.Object("metadata", node.Object("name", text))).String()
		if err != nil {
			t.Fatal(err)
		}
		var read struct{ Metadata struct{ Name any } }
		if err := k8syaml.Unmarshal([]byte(written), &read); err != nil || read.Metadata.Name != text {
			t.Errorf("%q is written as %q, and read as %#v (%v)", text, written, read.Metadata.Name, err)
		}
	}
	if n := node.Text("one"); n.Style != 0 {
		t.Errorf("one is written in style %v", n.Style)
	}
}
