package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// lists are ResourceLists with whatever an encoder carries from one item to the next: comments in every place, empty
// lines, block scalars that keep their end, anchors that later items use, flow style.
var lists = map[string]string{
	"plain":  "apiVersion: config.kubernetes.io/v1\nkind: ResourceList\nitems:\n- kind: A\n  a: [b, {c: d}]\n- kind: B\n  metadata:\n    annotations: {}\n    name: x\nfunctionConfig:\n  kind: C\n",
	"v1beta": "apiVersion: config.kubernetes.io/v1beta1\nkind: ResourceList\nitems:\n- kind: A\n",
	"wide":   "kind: ResourceList\nitems:\n  - kind: A\n    list:\n      - 1\n      - 2\n  - kind: B\n",
	"comments": `# top
kind: ResourceList # line
# above items
items: # of items
# above A
- kind: A # of A
  a: # of a
    # above b
    b: c # of c
    # below c

  # below a

# below A

# above B
- # inside B
  kind: B
  list:
  # above one
  - one # of one
  # below one

  - two
  # below two

  # below list

# above C, after an empty line

- kind: C
  # the end of C

# below all

functionConfig:
  kind: D # of D
# the end
`,
	"tails":   "kind: ResourceList\nitems:\n- kind: A\n  a:\n    b:\n    - c: d\n      # deep\n\n      e: f\n\n      # deeper\n\n- kind: B\n\n  # of B\n\n  b: c\n\n# of C\n\n- kind: C\n",
	"scalars": "kind: ResourceList\nitems:\n- kind: A\n  keep: |+\n    a\n\n\n- kind: B\n  fold: >-\n    a\n    b\n  strip: |-\n    a\n- kind: C\n  keep: |+\n    a\n\n  # after\n- kind: D\n  quoted: \"a\\tb\"\n  single: 'on'\n  long: " + strings.Repeat("word ", 60) + "\n",
	"anchors": "kind: ResourceList\nitems:\n- kind: A\n  a: &a\n    b: c\n- kind: B\n  b: *a\n- &whole\n  kind: C\n- <<: *whole\n  kind: D\n",
	"flow":    "{kind: ResourceList, items: [{kind: A, a: [1, 2]}, {kind: B}], functionConfig: {kind: C}}",
	"json":    "{\"kind\": \"ResourceList\", \"items\": [\n{\"kind\": \"A\",\n \"a\": \"b\"}\n]}\n",
	"null":    "kind: ResourceList\nitems: null\nfunctionConfig: {kind: A}\n",
	"empty":   "kind: ResourceList\nitems: []\nfunctionConfig: {kind: A}\n",
	"results": "kind: ResourceList\nitems:\n- kind: A\nresults:\n- message: old\n",
	"head":    "---\nkind: ResourceList\nitems:\n- kind: A\n",
	"crlf":    "kind: ResourceList\r\nitems:\r\n- kind: A\r\n  a: |\r\n    b\r\n",
}

// TestResourceList holds the reading and writing of ResourceLists against kyaml's, byte for byte.
func TestResourceList(t *testing.T) {
	texts := map[string]string{}
	for name, text := range lists {
		texts[name] = text
	}
	inputs, err := filepath.Glob("../*/testdata/*/*.yaml") // of all kinds, with the comments of people
	if err != nil || len(inputs) < 50 {
		t.Fatalf("%d manifests found (%v)", len(inputs), err)
	}
	for _, name := range inputs {
		if text, err := os.ReadFile(name); err != nil {
			t.Fatal(err)
		} else if items, err := fromBytes(text); err == nil {
			var out strings.Builder
			if err := (kio.ByteWriter{Writer: &out, WrappingKind: kio.ResourceListKind, KeepReaderAnnotations: true}).Write(items); err != nil {
				t.Fatal(err)
			}
			texts[name] = out.String()
		}
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			for _, results := range []*yaml.RNode{nil, yaml.MustParse("- message: m\n  severity: info\n")} {
				if diff := cmp.Diff(throughKyaml(t, text, results), throughUs(t, text, results)); diff != "" {
					t.Errorf("kyaml writes (-), we (+)\n%s", diff)
				}
			}
		})
	}
}

func throughKyaml(t *testing.T, text string, results *yaml.RNode) string {
	t.Helper()
	var out bytes.Buffer
	stream := &kio.ByteReadWriter{Reader: strings.NewReader(text), Writer: &out, OmitReaderAnnotations: true, KeepReaderAnnotations: true}
	items, err := stream.Read()
	if err != nil || stream.WrappingKind != kio.ResourceListKind {
		t.Fatalf("kyaml reads a %q: %v", stream.WrappingKind, err)
	}
	stream.Results, stream.WrappingAPIVersion = results, kio.ResourceListAPIVersion
	if err := stream.Write(items); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func throughUs(t *testing.T, text string, results *yaml.RNode) string {
	t.Helper()
	list, err := readResourceList(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	list.results = results
	var out bytes.Buffer
	if err := list.write(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// FuzzResourceList looks for a list that kyaml reads and writes in another way.
func FuzzResourceList(f *testing.F) {
	for _, text := range lists {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		stream := &kio.ByteReadWriter{Reader: strings.NewReader(text), OmitReaderAnnotations: true, KeepReaderAnnotations: true}
		items, err := stream.Read()
		for _, item := range items {
			if err == nil {
				err = node.CheckItem(item) // what a render refuses is never written
			}
			if err == nil && carriesComment(item.YNode()) {
				return
			}
		}
		if err != nil || stream.WrappingKind != kio.ResourceListKind {
			return
		}
		if stream.FunctionConfig != nil && node.CheckItem(stream.FunctionConfig) != nil {
			return
		}
		var want bytes.Buffer
		stream.Writer, stream.Results, stream.WrappingAPIVersion = &want, nil, kio.ResourceListAPIVersion
		if stream.Write(items) != nil {
			return
		}
		if diff := cmp.Diff(want.String(), throughUs(t, text, nil)); diff != "" {
			t.Errorf("kyaml writes (-), we (+)\n%s", diff)
		}
	})
}

// carriesComment tells whether a key and its value have a comment each on their lines: kyaml's encoder writes the key's
// behind a later value, which may be another item's.
func carriesComment(n *yaml.Node) bool {
	for i, child := range n.Content {
		if carriesComment(child) || n.Kind == yaml.MappingNode && i%2 == 0 && child.LineComment != "" && n.Content[i+1].LineComment != "" {
			return true
		}
	}
	return false
}
