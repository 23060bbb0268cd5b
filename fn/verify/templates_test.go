package verify_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/graph"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

const severalTemplates = `
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: llama, namespace: ml}
spec:
  leaderWorkerTemplate:
    leaderTemplate:
      metadata: {labels: {role: leader}}
      spec: {containers: [{name: leader, image: vllm, ports: [{containerPort: 8000}]}]}
    workerTemplate:
      spec: {containers: [{name: worker, image: vllm}]}
---
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {name: train, namespace: ml}
spec:
  replicatedJobs:
  - name: driver
    template: {spec: {template: {metadata: {annotations: {meshless.dev/inject: disabled}}, spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}
  - name: workers
    template: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}
---
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: web, namespace: ml}
spec: {workloadRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: ml}
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}}
---
apiVersion: v1
kind: Service
metadata: {name: llama, namespace: ml}
spec: {selector: {role: leader}, ports: [{port: 8000}]}
`

var severalKinds = []v1alpha1.PodTemplate{
	{Group: "leaderworkerset.x-k8s.io", Kind: "LeaderWorkerSet", Path: "spec.leaderWorkerTemplate.leaderTemplate"},
	{Group: "leaderworkerset.x-k8s.io", Kind: "LeaderWorkerSet", Path: "spec.leaderWorkerTemplate.workerTemplate"},
	{Group: "jobset.x-k8s.io", Kind: "JobSet", Path: "spec.replicatedJobs[].template.spec.template"},
}

// TestSeveralTemplates: each template of an object is a workload for verify and the graph, whether the config
// is known or not. What is changed in one of them is a finding with its field.
func TestSeveralTemplates(t *testing.T) {
	good, config := renderedFor(t, severalTemplates, func(s *v1alpha1.Spec) { s.Workloads.Templates = severalKinds }, pipeline.Options{Now: now, Mode: pipeline.Store})
	leader, worker := "leaderworkerset/llama-leader", "leaderworkerset/llama-worker"
	known, marks := manifest.KindsOf(config.Spec), manifest.KindsOf(v1alpha1.Spec{})
	for name, test := range map[string]struct{ text, want, wantByMark string }{
		"as rendered": {good, "", ""},
		"the identity of the other": {strings.Replace(good, "spiffe://cluster.local/ns/ml/"+worker+"\"", "spiffe://cluster.local/ns/ml/"+leader+"\"", 1),
			"error: leaderworkerset ml/llama: spec.leaderWorkerTemplate.workerTemplate: is not what its identity", "workerTemplate: is not what its identity"},
		"an identity of nobody":       {strings.Replace(good, `ml/jobset/train-workers\"`, `ml/jobset/train-x\"`, 1), "spec.replicatedJobs[1].template.spec.template: is not what its identity", "is not what its identity"},
		"the Secret of the other":     {strings.Replace(good, "name: meshless-leaderworkerset-llama-worker", "name: meshless-leaderworkerset-llama-leader", 1), "error: leaderworkerset ml/llama: spec.leaderWorkerTemplate.workerTemplate.spec", "spec.leaderWorkerTemplate.workerTemplate.spec"},
		"another list entry":          {strings.Replace(good, "  - name: workers\n", "  - name: others\n", 1), "error: jobset ml/train: spec.replicatedJobs[1].template.spec.template: is not what its identity", "is not what its identity"},
		"a referred template outside": {strings.Replace(good, "kind: Deployment, name: web", "kind: Deployment, name: gone", 1), "warning: rollout ml/web: spec.workloadRef: takes the pod template of deployment ml/gone, which is not in the input", "rollout ml/web: spec.workloadRef"},
	} {
		for how, kinds := range map[string]manifest.Kinds{"known": known, "by mark": marks} {
			want := test.want
			if how == "by mark" {
				want = test.wantByMark
			}
			r := &report.Report{}
			verify.Check(parse(t, test.text), verify.Options{Now: now, EveryWorkload: true, Kinds: kinds}, r)
			var got strings.Builder
			if err := r.WriteText(&got); err != nil {
				t.Fatal(err)
			}
			if got.String() != want && (want == "" || !strings.Contains(got.String(), want)) {
				t.Errorf("%s, %s: got:\n%swant %q", name, how, got.String(), want)
			}
			if (name == "as rendered") != (test.text == good) {
				t.Fatalf("%s: the text to replace is not there", name)
			}
		}
	}
	for how, kinds := range map[string]manifest.Kinds{"known": known, "by mark": marks} {
		g, err := graph.Build(parse(t, good), kinds)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, n := range g.Nodes {
			if n.Class == graph.Mesh {
				ids = append(ids, n.ID)
			}
		}
		slices.Sort(ids)
		if want := []string{"ml/deployment/web", "ml/jobset/train-workers", "ml/leaderworkerset/llama-leader", "ml/leaderworkerset/llama-worker"}; !slices.Equal(ids, want) {
			t.Errorf("%s: nodes are %q, want %q", how, ids, want)
		}
	}
	// whose pods nobody shows
	g, err := graph.Build(parse(t, strings.Replace(good, "kind: Deployment, name: web", "kind: Deployment, name: gone", 1)), known)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(g.Nodes, func(n graph.Node) bool { return n.ID == "ml/rollout/web" && n.Class == graph.Outside }) {
		t.Errorf("the Rollout is not drawn: %+v", g.Nodes)
	}
}
