package pipeline_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/api"
)

// TestTemplatesNoLongerNamed: templates that the config names no more are as they were before, in lists too, and each
// is a finding.
func TestTemplatesNoLongerNamed(t *testing.T) {
	w := newWorld(t)
	const input = `
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {name: train, namespace: ml}
spec:
  replicatedJobs:
  - name: driver # asks
    template: {spec: {template: {spec: {containers: [{name: c, image: i}]}}}}
  - name: workers
    template:
      spec:
        template:
          spec:
            containers:
            - {name: c, image: i, readinessProbe: {httpGet: {port: 80}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: ml}
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}}
`
	named := strings.Replace(plainConfig, "spec:\n", "spec:\n  workloads: {templates: [{group: jobset.x-k8s.io, kind: JobSet, path: \"spec.replicatedJobs[].template.spec.template\"}]}\n", 1)
	out, _ := w.mustRun(t, parse(t, input), w.config(t, named))
	if got := strings.Count(text(t, out), "name: "+api.ProxyName); got != 3 {
		t.Fatalf("%d pod templates are injected, want 3", got)
	}
	again, r := w.mustRun(t, out, w.config(t, plainConfig))
	jobSet, want := text(t, again[:1]), text(t, parse(t, input)[:1])
	if diff := cmp.Diff(want, jobSet); diff != "" {
		t.Errorf("the JobSet is not as before:\n%s", diff)
	}
	warnings := 0
	for _, finding := range r.Findings() {
		if strings.HasPrefix(finding.Message, "makes pods that stay outside of the mesh") {
			warnings++
		}
	}
	if warnings != 2 {
		t.Errorf("%d warnings, want one for each template: %v", warnings, r.Findings())
	}
}
