package rewrite_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/rewrite"
)

// folded is the script of a Job of sock-shop, which the encoder changes at every write.
const folded = "kind: Job\nargs:\n  - >\n    for f in a b ; do\n      echo start \\\n        --one \"$f\" ;\n    done ;\n    echo end\n"

// full has whatever an encoder does not keep.
const full = `# Copyright, in a document of its own.
---
# The first.

apiVersion: v1
kind: ConfigMap
metadata:
    name:   a   # far
    annotations: {}  # none yet
    labels:
data:
    # above text
    text: a plain text that goes on
      in the next line
    quoted: 'it''s'   

    script: |+
      one

    # below

--- # the second
kind: Deployment
metadata: &names {name: b}
spec:
  replicas: 0x10
  template:
    metadata: *names
    spec:
      containers:
      # the app
      - name: app
        args: ["a",   "b"]
        # below args

      # below containers
  # the end
---
# nothing here
---
` + folded

// Each change shows as itself, and as nothing else.
func TestDocument(t *testing.T) {
	for name, c := range map[string]struct {
		object int
		change func(n *yaml.Node)
		old    string
		want   string
	}{
		"nothing": {1, func(*yaml.Node) {}, "", ""},
		"a scalar": {0, func(n *yaml.Node) { node.Get(n, "metadata", "name").Value = "c" },
			"name:   a   # far\n", "name: c # far\n"},
		"order alone": {1, func(n *yaml.Node) { n.Content = append(n.Content[2:], n.Content[:2]...) }, "", ""},
		"a key behind comments": {1, func(n *yaml.Node) { node.Set(node.Get(n, "spec"), "paused", node.Value(true)) },
			"  # the end\n", "  # the end\n  paused: true\n"},
		"a key in flow style": {1, func(n *yaml.Node) { node.Set(node.Get(n, "metadata"), "namespace", node.Text("x")) },
			"metadata: &names {name: b}\nspec:\n  replicas: 0x10\n  template:\n    metadata: *names\n",
			"metadata: {name: b, namespace: x}\nspec:\n  replicas: 0x10\n  template:\n    metadata: {name: b}\n"},
		"an item before the first": {1, func(n *yaml.Node) { insert(containers(n), 0, node.Object("name", "proxy", "args", []string{"x"})) },
			"      # the app\n", "      - name: proxy\n        args:\n        - x\n      # the app\n"},
		"an item behind the last": {1, func(n *yaml.Node) { insert(containers(n), 1, node.Object("name", "proxy")) },
			"      # below containers\n", "      # below containers\n      - name: proxy\n"},
		"a key of an item": {1, func(n *yaml.Node) { node.Set(containers(n).Content[0], "image", node.Text("x")) },
			"        # below args\n", "        # below args\n        image: x\n"},
		"a block scalar that keeps its end": {0, func(n *yaml.Node) { node.Drop(node.Get(n, "data"), "script") },
			"    script: |+\n      one\n\n", ""},
		"a key with its comment": {0, func(n *yaml.Node) { node.Drop(node.Get(n, "data"), "text") },
			"    # above text\n    text: a plain text that goes on\n      in the next line\n", ""},
		"beside a folded text": {2, func(n *yaml.Node) { node.Set(n, "a", node.Text("b")) },
			"    echo end\n", "    echo end\na: b\n"},
		"null to a mapping": {0, func(n *yaml.Node) { node.Set(node.Get(n, "metadata"), "labels", node.Object("a", "b")) },
			"    labels:\n", "    labels:\n      a: b\n"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, end := range []string{"\n", "\r\n"} {
				text := strings.ReplaceAll(full, "\n", end)
				file := rewrite.Split([]byte(text))
				values := file.Values()
				if len(values) != 3 {
					t.Fatalf("holds %d objects", len(values))
				}
				if err := yaml.NewRNode(values[c.object]).DeAnchor(); err != nil {
					t.Fatal(err)
				}
				c.change(values[c.object])
				got, err := file.Rewrite(index(values), nil)
				if err != nil {
					t.Fatal(err)
				}
				if c.old != "" && strings.Count(full, c.old) != 1 {
					t.Fatalf("%q is not in the text", c.old)
				}
				want := strings.Replace(text, strings.ReplaceAll(c.old, "\n", end), strings.ReplaceAll(c.want, "\n", end), 1)
				if diff := cmp.Diff(want, string(got)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func containers(n *yaml.Node) *yaml.Node {
	return node.Get(n, "spec", "template", "spec", "containers")
}

func insert(list *yaml.Node, at int, item *yaml.Node) {
	list.Content = append(list.Content[:at:at], append([]*yaml.Node{item}, list.Content[at:]...)...)
}
