package rewrite_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/rewrite"
)

// TestLargeMapping is an attack: a change in a mapping with very many keys does not take time by their square.
func TestLargeMapping(t *testing.T) {
	var text, merged strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&text, "k%d: v\n", i)
		fmt.Fprintf(&merged, "  k%d: v\n", i)
	}
	for name, was := range map[string]string{"plain": text.String(), "merged": "base: &b\n" + merged.String() + "a:\n  <<: *b\n" + merged.String()} {
		file := rewrite.Split([]byte(was))
		values := file.Values()
		node.Set(values[0], "last", node.Text("x"))
		began := time.Now()
		written, err := file.Rewrite(map[int]*yaml.Node{0: values[0]}, nil)
		if err != nil || string(written) != was+"last: x\n" {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: it takes %v", name, took)
		}
		t.Log(name, time.Since(began))
	}
}
