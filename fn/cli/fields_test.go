package cli_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

// fieldNamed is a field of the config as messages and pages name it, with or without spec before it.
var fieldNamed = regexp.MustCompile(`(?:^|[^\w/#.-])(?:spec\.)?((?:authorization|certificates|inbound|init|outbound|proxy|sealing|sidecar|workloads)(?:\.[a-z]\w*)+)`)

// TestNamedFieldsExist: the way out that the proxy's hints, the alerts and the pages on the proxy name is a field.
func TestNamedFieldsExist(t *testing.T) {
	text, err := os.ReadFile("../../docs/mutualtls.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct{ Properties map[string]property }
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range []string{"proxy/reason/hint.go", "examples/monitoring/rules.yaml", "docs/monitoring.md", "docs/proxy.md", "docs/hardening.md", "docs/limits.md", "docs/security.md", "docs/init.md", "CHANGELOG.md"} {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range fieldNamed.FindAllStringSubmatch(string(text), -1) {
			path := strings.Split(match[1], ".")
			if path[1] == "md" { // a page
				continue
			}
			found++
			if !schema.Properties["spec"].has(path) {
				t.Errorf("%s: the config has no field spec.%s", file, match[1])
			}
		}
	}
	if found < 40 {
		t.Errorf("found %d fields; does this test still read the pages rightly?", found)
	}
}

// property is a field in the schema.
type property struct {
	Properties map[string]property
	Items      *property
}

func (p property) has(path []string) bool {
	if len(path) == 0 {
		return true
	}
	if p.Items != nil {
		return p.Items.has(path)
	}
	if p.Properties == nil { // of Kubernetes: the schema does not look into it
		return true
	}
	next, known := p.Properties[path[0]]
	return known && next.has(path[1:])
}
