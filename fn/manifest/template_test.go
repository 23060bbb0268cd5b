package manifest_test

import (
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

func named(group, kind string, paths ...string) manifest.Kinds {
	var entries []v1alpha1.PodTemplate
	for _, path := range paths {
		entries = append(entries, v1alpha1.PodTemplate{Group: group, Kind: kind, Path: path})
	}
	return manifest.KindsOf(v1alpha1.Spec{Workloads: v1alpha1.WorkloadSelectors{Templates: entries}})
}

// TestTemplates: every template of an object is found, and its name tells it from the others, whatever stands beside
// it.
func TestTemplates(t *testing.T) {
	for name, c := range map[string]struct {
		paths []string
		text  string // below spec
		want  []string
	}{
		"one":                 {[]string{"spec.template"}, "{template: " + podTemplate + "}", []string{"spec.template a"}},
		"one of two":          {[]string{"spec.x.template", "spec.y.template"}, "{y: {template: " + podTemplate + "}}", []string{"spec.y.template a"}},
		"same entry twice":    {[]string{"spec.template", "spec.template"}, "{template: " + podTemplate + "}", []string{"spec.template a"}},
		"keys":                {[]string{"spec.xSpec.template", "spec.worker.podTemplate"}, "{xSpec: {template: " + podTemplate + "}, worker: {podTemplate: " + podTemplate + "}}", []string{"spec.xSpec.template a-x", "spec.worker.podTemplate a-worker"}},
		"list":                {[]string{"spec.jobs[].template"}, "{jobs: [{name: b, template: " + podTemplate + "}, {name: c, template: " + podTemplate + "}]}", []string{"spec.jobs[0].template a-b", "spec.jobs[1].template a-c"}},
		"entry before":        {[]string{"spec.jobs[].template"}, "{jobs: [{name: z, template: " + podTemplate + "}, {name: b, template: " + podTemplate + "}, {name: c, template: " + podTemplate + "}]}", []string{"spec.jobs[0].template a-z", "spec.jobs[1].template a-b", "spec.jobs[2].template a-c"}},
		"list of templates":   {[]string{"spec.templates[]"}, "{templates: [{name: b, spec: {}}, {name: c, spec: {}}]}", []string{"spec.templates[0] a-b", "spec.templates[1] a-c"}},
		"list in a list":      {[]string{"spec.groups[].jobs[].template"}, "{groups: [{name: g, jobs: [{name: b, template: {}}]}, {name: h, jobs: [{name: b, template: {}}]}]}", []string{"spec.groups[0].jobs[0].template a-g-b", "spec.groups[1].jobs[0].template a-h-b"}},
		"key below a list":    {[]string{"spec.groups[].leader.template", "spec.groups[].worker.template"}, "{groups: [{name: g, leader: {template: {}}, worker: {template: {}}}]}", []string{"spec.groups[0].leader.template a-g-leader", "spec.groups[0].worker.template a-g-worker"}},
		"another name":        {[]string{"spec.groups[].template"}, "{groups: [{groupName: Big_One, template: {}}, {groupName: b, template: {}}]}", []string{"spec.groups[0].template a-big-one", "spec.groups[1].template a-b"}},
		"keys that end alike": {[]string{"spec.a.worker.template", "spec.b.worker.template", "spec.c.template"}, "{a: {worker: {template: {}}}, b: {worker: {template: {}}}, c: {template: {}}}", []string{"spec.a.worker.template a-a-worker", "spec.b.worker.template a-b-worker", "spec.c.template a-c"}},
		"no name":             {[]string{"spec.groups[].template", "spec.template"}, "{groups: [{template: {}}], template: {}}", []string{"spec.groups[0].template a-groups", "spec.template a-pod"}},
		"entries without":     {[]string{"spec.jobs[].template"}, "{jobs: [{name: b}, {name: c, template: {}}, text, null]}", []string{"spec.jobs[1].template a"}},
		"no list":             {[]string{"spec.jobs[].template"}, "{jobs: {template: {}}}", nil},
		"empty list":          {[]string{"spec.jobs[].template"}, "{jobs: []}", nil},
		"null":                {[]string{"spec.template"}, "{template: null}", nil},
		"a key like an index": {[]string{"spec.template"}, "{'[0]': {}, template: {}}", []string{"spec.template a"}},
	} {
		item := yaml.MustParse("{apiVersion: e/v1, kind: X, metadata: {name: a}, spec: " + c.text + "}")
		templates, known := named("e", "X", c.paths...).Templates(item)
		var got []string
		for _, template := range templates {
			got = append(got, template.Field()+" "+template.Name)
		}
		if !known || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q (%t), want %q", name, got, known, c.want)
		}
	}
}

// TestTemplatesAddUp: entries of the config add to what is built in, and take nothing away.
func TestTemplatesAddUp(t *testing.T) {
	item := yaml.MustParse("{apiVersion: argoproj.io/v1alpha1, kind: Rollout, metadata: {name: a}, spec: {template: {}, canary: {template: {}}}}")
	templates, _ := named("argoproj.io", "Rollout", "spec.canary.template").Templates(item)
	if len(templates) != 2 {
		t.Errorf("got %v", templates)
	}
	if templates, _ := manifest.KindsOf(v1alpha1.Spec{}).Templates(item); len(templates) != 1 {
		t.Errorf("the built-in kinds have changed: %v", templates)
	}
}

// TestFindByMark: without the config, injected templates are found by their marks, in lists too. Since others may be
// there without, both names are right where one was found, and none but that of its place where several were.
func TestFindByMark(t *testing.T) {
	const marked = "{metadata: {annotations: {meshless.dev/workload: '{}'}}}"
	kinds := manifest.KindsOf(v1alpha1.Spec{})
	one, known := kinds.Find(yaml.MustParse("{apiVersion: e/v1, kind: X, metadata: {name: a}, spec: {jobs: [{name: b, template: {}}, {name: c, template: " + marked + "}]}}"))
	if !known || len(one) != 1 || one[0].Field() != "spec.jobs[1].template" || !one[0].Called("a") || !one[0].Called("a-c") || one[0].Called("a-b") {
		t.Errorf("got %v", one)
	}
	two, _ := kinds.Find(yaml.MustParse("{apiVersion: e/v1, kind: X, metadata: {name: a}, spec: {jobs: [{name: b, template: " + marked + "}, {name: c, template: " + marked + "}]}}"))
	if len(two) != 2 || !two[0].Called("a-b") || two[0].Called("a") || two[0].Called("a-c") {
		t.Errorf("got %v", two)
	}
	// what an earlier config named is found beside what this one names
	both, _ := named("e", "X", "spec.leader.template").Find(yaml.MustParse("{apiVersion: e/v1, kind: X, metadata: {name: a}, spec: {leader: {template: {}}, worker: {template: " + marked + "}}}"))
	if len(both) != 2 {
		t.Errorf("got %v", both)
	}
}

// TestEntryOfFinding: the entry that a finding offers takes the pods in of which it speaks.
func TestEntryOfFinding(t *testing.T) {
	for _, text := range []string{
		"{apiVersion: e/v1, kind: X, metadata: {name: a}, spec: {template: " + podTemplate + "}}",
		"{apiVersion: v1, kind: PodTemplate, metadata: {name: a}, template: " + podTemplate + "}",
		"{apiVersion: e/v1, kind: X, metadata: {name: a}, spec: {jobs: [{name: b, x: {template: " + podTemplate + "}}, {name: c, x: {template: " + podTemplate + "}}]}}",
		"{apiVersion: e/v1, kind: X, metadata: {name: a}, spec: {templates: [" + podTemplate + "]}}",
		"{apiVersion: e/v1, kind: X, metadata: {name: a}, spec: {template: {spec: {initContainers: [{name: i, image: i}], containers: [{name: c}]}}}}",
		"{apiVersion: e/v1, kind: X, metadata: {name: a}, base: &t " + podTemplate + ", spec: {jobs: [{name: b, template: *t}]}}",
	} {
		item := yaml.MustParse(text)
		r := &report.Report{}
		manifest.KindsOf(v1alpha1.Spec{}).WarnUnknownPods(item, r)
		for _, finding := range r.Findings() {
			_, entry, offered := strings.Cut(finding.Message, "add to spec.workloads.templates of the config: ")
			if !offered {
				t.Fatalf("%s: no entry in %q", text, finding.Message)
			}
			var template v1alpha1.PodTemplate
			if err := node.Decode(yaml.MustParse(entry), &template); err != nil {
				t.Fatalf("%s: %v", entry, err)
			}
			if err := node.ResolveAliases(item); err != nil { // as a render does
				t.Fatal(err)
			}
			kinds := manifest.KindsOf(v1alpha1.Spec{Workloads: v1alpha1.WorkloadSelectors{Templates: []v1alpha1.PodTemplate{template}}})
			if slices.Contains(kinds.UnknownPodFields(item), finding.Field) {
				t.Errorf("%s: %s does not take in %s", text, entry, finding.Field)
			}
		}
		if len(r.Findings()) == 0 {
			t.Errorf("%s: no finding", text)
		}
	}
}

// TestDisabledIsNoFinding: a template that is left out on purpose is not said, and it is known to be outside.
func TestDisabledIsNoFinding(t *testing.T) {
	item := yaml.MustParse("{apiVersion: e/v1, kind: X, spec: {template: {metadata: {annotations: {meshless.dev/inject: disabled}}, spec: {containers: [{name: a}]}}}}")
	kinds, r := manifest.KindsOf(v1alpha1.Spec{}), &report.Report{}
	kinds.WarnUnknownPods(item, r)
	if len(r.Findings()) != 0 || len(kinds.UnknownPodFields(item)) != 1 {
		t.Errorf("got %v and %q", r.Findings(), kinds.UnknownPodFields(item))
	}
}
