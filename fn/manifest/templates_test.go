package manifest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/test/program"
)

const podTemplate = "{spec: {containers: [{name: a, image: a:1}]}}"

// TestPodFields: whatever makes pods is found, wherever it stands, and nothing else is.
func TestPodFields(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"Deployment": {"{apiVersion: apps/v1, kind: Deployment, spec: {template: " + podTemplate + "}}", []string{"spec.template.spec.containers"}},
		"JobSet": {"{apiVersion: jobset.x-k8s.io/v1alpha2, kind: JobSet, spec: {replicatedJobs: [{name: a, template: {spec: {template: " + podTemplate + "}}}, {name: b, template: {spec: {template: " + podTemplate + "}}}]}}",
			[]string{"spec.replicatedJobs[0].template.spec.template.spec.containers", "spec.replicatedJobs[1].template.spec.template.spec.containers"}},
		"LeaderWorkerSet": {"{apiVersion: leaderworkerset.x-k8s.io/v1, kind: LeaderWorkerSet, spec: {leaderWorkerTemplate: {leaderTemplate: " + podTemplate + ", workerTemplate: " + podTemplate + "}}}",
			[]string{"spec.leaderWorkerTemplate.leaderTemplate.spec.containers", "spec.leaderWorkerTemplate.workerTemplate.spec.containers"}},
		"Argo Workflow": {`{apiVersion: argoproj.io/v1alpha1, kind: Workflow, spec: {podSpecPatch: "containers: []", templates: [
			{name: main, steps: [[{name: a, template: one}]]}, {name: one, container: {image: a:1}, sidecars: [{name: s, image: s:1}]},
			{name: two, script: {image: b:1, source: echo}}, {name: three, containerSet: {containers: [{name: x, image: x:1}]}}, {name: http, http: {url: x}}]}}`,
			[]string{"spec.templates[1].container", "spec.templates[2].script", "spec.templates[3].containerSet.containers"}},
		"Argo CronWorkflow": {"{apiVersion: argoproj.io/v1alpha1, kind: CronWorkflow, spec: {workflowSpec: {templates: [{name: a, container: {image: a:1}}]}}}",
			[]string{"spec.workflowSpec.templates[0].container"}},
		"Tekton Task":        {"{apiVersion: tekton.dev/v1, kind: Task, spec: {steps: [{name: a, image: a:1, script: echo}], sidecars: [{image: b:1}]}}", []string{"spec.steps"}},
		"Tekton TaskRun":     {"{apiVersion: tekton.dev/v1, kind: TaskRun, spec: {taskSpec: {steps: [{image: a:1}]}}}", []string{"spec.taskSpec.steps"}},
		"Tekton podTemplate": {"{apiVersion: tekton.dev/v1, kind: TaskRun, spec: {taskRef: {name: a}, podTemplate: {nodeSelector: {a: b}}}}", []string{"spec.podTemplate"}},
		"Tekton PipelineRun": {"{apiVersion: tekton.dev/v1, kind: PipelineRun, spec: {pipelineSpec: {tasks: [{name: a, taskSpec: {steps: [{image: a:1}]}}]}, taskRunTemplate: {podTemplate: {dnsPolicy: None}}}}",
			[]string{"spec.pipelineSpec.tasks[0].taskSpec.steps", "spec.taskRunTemplate.podTemplate"}},
		"OpenShift Template": {"{apiVersion: template.openshift.io/v1, kind: Template, objects: [{apiVersion: v1, kind: Service, spec: {ports: [{port: 80}]}}, {apiVersion: apps/v1, kind: Deployment, spec: {template: " + podTemplate + "}}]}",
			[]string{"objects[1].spec.template.spec.containers"}},
		"Prometheus": {"{apiVersion: monitoring.coreos.com/v1, kind: Prometheus, spec: {initContainers: [{name: init-config-reloader}], containers: [{name: prometheus, args: [x]}]}}",
			[]string{"spec.initContainers"}},
		"alias":                    {"{apiVersion: e/v1, kind: X, a: &c [{image: a:1}], spec: {containers: *c}}", []string{"spec.containers"}},
		"merge key":                {"{apiVersion: e/v1, kind: X, spec: {<<: {containers: [{image: a:1}]}}}", []string{"spec.containers"}},
		"merge key of a container": {"{apiVersion: e/v1, kind: X, spec: {containers: [{<<: {image: a:1}}]}}", []string{"spec.containers"}},
		"entry that says it is a policy": {"{apiVersion: jobset.x-k8s.io/v1alpha2, kind: JobSet, spec: {replicatedJobs: [{apiVersion: kyverno.io/v1, kind: Policy, name: a, template: {spec: {template: " + podTemplate + "}}}]}}",
			[]string{"spec.replicatedJobs[0].template.spec.template.spec.containers"}},
		"pod that says it is a policy": {"{apiVersion: e/v1, kind: X, pods: [{apiVersion: kyverno.io/v1, kind: Policy, spec: {containers: [{image: a:1}]}}]}", []string{"pods[0].spec.containers"}},

		"CustomResourceDefinition": {`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, spec: {versions: [{schema: {openAPIV3Schema: {properties: {
			podTemplate: {type: object}, containers: {type: array, default: [{name: a, image: a:1}]}}}}}]}}`, nil},
		"CRD in a Template":     {"{apiVersion: template.openshift.io/v1, kind: Template, objects: [{apiVersion: apiextensions.k8s.io/v1beta1, kind: CustomResourceDefinition, spec: {validation: {podTemplate: {type: object}}}}]}", nil},
		"XRD":                   {"{apiVersion: apiextensions.crossplane.io/v1, kind: CompositeResourceDefinition, spec: {versions: [{schema: {openAPIV3Schema: {properties: {podTemplate: {type: object}}}}}]}}", nil},
		"ConfigMap":             {"{apiVersion: v1, kind: ConfigMap, data: {containers: '[{image: a:1}]', podTemplate: a, x: '" + podTemplate + "'}}", nil},
		"Kustomization":         {"{apiVersion: kustomize.config.k8s.io/v1beta1, kind: Kustomization, images: [{name: a, newName: b}], helmCharts: [{valuesInline: {sidecars: [{image: a:1}]}}]}", nil},
		"PodMonitor":            {"{apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, spec: {selector: {matchLabels: {a: b}}, podMetricsEndpoints: [{port: http}], podTargetLabels: [a]}}", nil},
		"Kyverno":               {"{apiVersion: kyverno.io/v1, kind: ClusterPolicy, spec: {rules: [{validate: {pattern: {spec: {containers: [{name: '*', image: '!*:latest'}]}}}}]}}", nil},
		"VerticalPodAutoscaler": {"{apiVersion: autoscaling.k8s.io/v1, kind: VerticalPodAutoscaler, spec: {resourcePolicy: {containerPolicies: [{containerName: '*'}]}}}", nil},
		"Kptfile":               {"{apiVersion: kpt.dev/v1, kind: Kptfile, pipeline: {mutators: [{image: a:1}]}}", nil},
		"plain steps":           {"{apiVersion: e/v1, kind: X, spec: {steps: [{name: a}, text], container: web, script: echo, containers: {a: b}}}", nil},
	} {
		item := yaml.MustParse(c.text)
		if err := node.CheckItem(item); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := manifest.PodFields(item); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestUnknownPodFields: a kind that the config names covers its template, and no other of the same object.
func TestUnknownPodFields(t *testing.T) {
	kinds := manifest.KindsOf(v1alpha1.Spec{Workloads: v1alpha1.WorkloadSelectors{Templates: []v1alpha1.PodTemplate{{Group: "e", Kind: "X", Path: "spec.template"}}}})
	item := yaml.MustParse("{apiVersion: e/v1, kind: X, spec: {template: " + podTemplate + ", templateOfWorkers: " + podTemplate + "}}")
	if got := kinds.UnknownPodFields(item); !slices.Equal(got, []string{"spec.templateOfWorkers.spec.containers"}) {
		t.Errorf("got %q", got)
	}
	marked := `metadata: {annotations: {meshless.dev/workload: "{}"}}, ` + podTemplate[1:len(podTemplate)-1]
	item = yaml.MustParse("{apiVersion: f/v1, kind: X, spec: {" + marked + ", jobs: [{template: " + podTemplate + "}]}}")
	if got := kinds.UnknownPodFields(item); !slices.Equal(got, []string{"spec.jobs[0].template.spec.containers"}) {
		t.Errorf("below what an injection has marked: got %q", got)
	}
}

// TestPodFieldsOfCorpus: in the manifests of others, all pods are those of known kinds but for one, of a version that
// OpenShift has dropped.
func TestPodFieldsOfCorpus(t *testing.T) {
	var files []string
	for _, pattern := range []string{"*.yaml", "*/*.yaml", "*/*/*.yaml"} {
		found, err := filepath.Glob(filepath.Join("../../../shared/corpus", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		program.Missing(t, "../shared/corpus beside the repository")
	}
	kinds := manifest.KindsOf(v1alpha1.Spec{})
	workloads, found := 0, []string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		items, err := (&kio.ByteReader{Reader: strings.NewReader(string(text)), OmitReaderAnnotations: true}).Read()
		if err != nil {
			continue // the templates of Helm charts
		}
		for _, item := range manifest.Flatten(items) {
			if node.CheckItem(item) != nil {
				continue
			}
			if _, known := kinds.Templates(item); known {
				workloads++
			}
			for _, field := range kinds.UnknownPodFields(item) {
				found = append(found, fmt.Sprintf("%s %s %s", item.GetApiVersion(), item.GetKind(), field))
			}
		}
	}
	if want := []string{"v1 DeploymentConfig spec.template.spec.containers"}; workloads < 50 || !slices.Equal(found, want) {
		t.Errorf("%d workloads seen, and got %q, want %q", workloads, found, want)
	}
}

// TestKindsAlike: an entry that misses a kind by its group or its capitals is named where the kind is warned of.
func TestKindsAlike(t *testing.T) {
	const item = "{apiVersion: elastic.co/v1, kind: Elasticsearch, metadata: {name: es}, spec: {nodeSets: [{podTemplate: " + podTemplate + "}]}}"
	for name, test := range map[string]struct{ entry, want string }{
		"no group":   {"{kind: Elasticsearch, path: 'spec.nodeSets[].podTemplate'}", `, and an entry of spec.workloads.templates names kind "Elasticsearch" of group ""`},
		"lower case": {"{group: elastic.co, kind: elasticsearch, path: 'spec.nodeSets[].podTemplate'}", `names kind "elasticsearch" of group "elastic.co"`},
		"another":    {"{group: elastic.co, kind: Kibana, path: spec.podTemplate}", "is no kind that meshless knows. To take them in"},
		"right":      {"{group: elastic.co, kind: Elasticsearch, path: 'spec.nodeSets[].podTemplate'}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := v1alpha1.Load(yaml.MustParse("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS, spec: {workloads: {templates: [" + test.entry + "]}}}"))
			if err != nil {
				t.Fatal(err)
			}
			r := &report.Report{}
			manifest.KindsOf(config.Spec).WarnUnknownPods(yaml.MustParse(item), r)
			if got := r.Results().Error(); !strings.Contains(got, test.want) || (test.want == "") != (len(r.Results()) == 0) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
