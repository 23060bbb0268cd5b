package v1alpha1_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

// TestDeclared: each mistake in a declared workload names its field.
func TestDeclared(t *testing.T) {
	const good = "{kind: Cluster, name: pg, namespace: data, selector: {matchLabels: {a: b}}, ports: [{name: pg, port: 5432}], annotations: {meshless.dev/log-level: debug}, " +
		"services: [{name: pg-rw, ports: [{port: 5432, targetPort: pg}, {port: 5433, targetPort: 5432}]}]}"
	for name, c := range map[string]struct{ old, new, field string }{
		"good":             {"", "", ""},
		"kind":             {"kind: Cluster", "kind: a/b", "kind"},
		"name":             {"name: pg,", "name: Pg,", "name"},
		"namespace":        {"namespace: data", "namespace: a.b", "namespace"},
		"no label":         {"{matchLabels: {a: b}}", "{matchExpressions: [{key: a, operator: DoesNotExist}]}", "selector"},
		"a label":          {"{matchLabels: {a: b}}", "{matchExpressions: [{key: a, operator: Exists}]}", ""},
		"bad selector":     {"{matchLabels: {a: b}}", "{matchExpressions: [{key: a, operator: Like}]}", "selector"},
		"port":             {"name: pg, port: 5432", "name: pg, port: 0", "ports[0].port"},
		"the proxy's port": {"name: pg, port: 5432", "name: pg, port: 15001", "ports[0].port"},
		"name of a port":   {"[{name: pg,", "[{name: P_,", "ports[0].name"},
		"out":              {"meshless.dev/log-level: debug", "meshless.dev/inject: disabled", "annotations[meshless.dev/inject]"},
		"other annotation": {"meshless.dev/log-level: debug", "a: b", "annotations[a]"},
		"service":          {"name: pg-rw", "name: a.b", "services[0].name"},
		"no ports":         {"ports: [{port: 5432, targetPort: pg}, {port: 5433, targetPort: 5432}]", "ports: []", "services[0].ports"},
		"service twice":    {"services: [", "services: [{name: pg-rw, ports: [{port: 1}]}, ", "services[1].name"},
		"service port":     {"{port: 5433", "{port: 70000", "services[0].ports[1].port"},
		"target":           {"targetPort: pg", "targetPort: P_", "services[0].ports[0].targetPort"},
		"target number":    {"targetPort: 5432", "targetPort: 70000", "services[0].ports[1].targetPort"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(good, c.old, c.new, 1)
			if text == good && c.old != "" {
				t.Fatalf("%q is not in it", c.old)
			}
			_, err := v1alpha1.Load(yaml.MustParse("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS, spec: {certificates: {issuer: CertManager, certManager: {issuerRef: {name: a}}}, workloads: {declared: [" + text + "]}}}"))
			var fields []string
			for _, mistake := range v1alpha1.Mistakes(err) {
				fields = append(fields, mistake.Path)
			}
			want := ""
			if c.field != "" {
				want = "spec.workloads.declared[0]." + c.field
			}
			if got := strings.Join(fields, " "); got != want {
				t.Errorf("got %q, want %q (%v)", got, want, err)
			}
		})
	}
}
