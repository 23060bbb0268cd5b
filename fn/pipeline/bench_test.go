package pipeline_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// application is n Deployments with a Service each.
func application(tb testing.TB, n int) []*yaml.RNode {
	tb.Helper()
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app-%[1]d, namespace: prod}
spec:
  selector: {matchLabels: {app: app-%[1]d}}
  template:
    metadata: {labels: {app: app-%[1]d}}
    spec:
      containers:
      - name: app
        image: app:1
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}}
---
apiVersion: v1
kind: Service
metadata: {name: app-%[1]d, namespace: prod}
spec: {selector: {app: app-%[1]d}, ports: [{port: 80, targetPort: http}]}
`, i)
	}
	return parse(tb, text.String())
}

// BenchmarkRender measures the first render and one with nothing due; the cost of a workload must not grow with their
// number.
func BenchmarkRender(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		w := newWorld(b)
		config := w.config(b, plainConfig)
		items := application(b, n)
		rendered, _ := w.mustRun(b, items, config)
		for name, input := range map[string][]*yaml.RNode{"issue": items, "steady": rendered} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					w.mustRun(b, input, config)
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/workload")
			})
		}
	}
}
