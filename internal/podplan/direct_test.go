package podplan_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/podplan"
)

// TestDirectName: the name is a label's value whatever the workload is called, and no two workloads share it.
func TestDirectName(t *testing.T) {
	label := regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`) // Kubernetes documentation, "Labels and Selectors"
	seen := map[string]string{}
	for _, path := range []string{"deployment/web", "deployment/web.shop", "statefulset/web", "cronjob/" + strings.Repeat("n", 52), "custom.kind/" + strings.Repeat("a", 44) + ".b", "deployment/" + strings.Repeat("a", 200), "deployment/" + strings.Repeat("a", 201)} {
		p := &podplan.Plan{Workload: podplan.Workload{SPIFFEID: "spiffe://cluster.local/ns/shop/" + path}}
		if name := p.DirectName(); name != "" {
			t.Errorf("%s has rules, and is called %q", path, name)
		}
		p.Serve.Direct = &podplan.Direct{}
		name := p.DirectName()
		if !label.MatchString(name) {
			t.Errorf("%s: %q is no value of a label", path, name)
		}
		if other, twice := seen[name]; twice {
			t.Errorf("%s and %s are both called %q", path, other, name)
		}
		seen[name] = path
	}
	for path, want := range map[string]string{"deployment/web": "deployment-web", "statefulset/db.a": "statefulset-db.a"} {
		p := &podplan.Plan{Workload: podplan.Workload{SPIFFEID: "spiffe://cluster.local/ns/shop/" + path}, Serve: podplan.ProxyArgs{Direct: &podplan.Direct{}}}
		if got := p.DirectName(); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
