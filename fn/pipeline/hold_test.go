package pipeline_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
)

const immutable = `
apiVersion: batch/v1
kind: Job
metadata: {name: migrate, namespace: prod}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: migrate:1}]
---
apiVersion: v1
kind: Pod
metadata: {name: tool, namespace: prod}
spec:
  containers: [{name: c, image: tool:1, readinessProbe: {httpGet: {port: 80}}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: often, namespace: prod, annotations: {argocd.argoproj.io/sync-options: "Replace=true,Force=true"}}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: often:1}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: prod}
spec:
  template:
    spec:
      containers: [{name: c, image: web:1}]
`

// ofName are the objects of that name as text, but for state.
func ofName(t *testing.T, items []*yaml.RNode, name string) string {
	t.Helper()
	for _, item := range items {
		if item.GetName() == name && item.GetAnnotations()[api.IdentityAnnotation] == "" {
			return text(t, []*yaml.RNode{item})
		}
	}
	t.Fatalf("there is no %s", name)
	return ""
}

// sources are the manifests that a user has written, beside the state of a render: what a kustomization hands to the
// function.
func sources(t *testing.T, manifests string, rendered []*yaml.RNode) []*yaml.RNode {
	t.Helper()
	items := parse(t, manifests)
	for _, item := range rendered {
		if item.GetAnnotations()[api.IdentityAnnotation] != "" {
			items = append(items, item.Copy())
		}
	}
	return items
}

// upgrade is what an upgrade of meshless changes, and what a user may change of our containers.
func upgrade(c *v1alpha1.MutualTLS) {
	c.Spec.Proxy.Image, c.Spec.Init.Image = "ghcr.io/meshless-dev/proxy:v9", "ghcr.io/meshless-dev/init:v9"
	c.Spec.Proxy.LogLevel, c.Spec.Proxy.ImagePullPolicy = "debug", "Always"
	c.Spec.Proxy.IdleTimeout.Duration = 8 * 3600e9
	c.Spec.Proxy.Records = "Standard"
}

// TestUpgradeKeepsImmutableTemplates: an upgrade changes no template of a Job or Pod that exists, whether a render sees
// its own output or the sources, and verify takes what it leaves.
func TestUpgradeKeepsImmutableTemplates(t *testing.T) {
	w := newWorld(t)
	first, r := w.mustRun(t, parse(t, immutable), w.config(t, plainConfig))
	if got := said(t, r); strings.Count(got, "is written anew by this render") != 2 {
		t.Errorf("the first render says\n%s", got)
	}
	config := w.config(t, plainConfig)
	upgrade(config)
	for name, items := range map[string][]*yaml.RNode{"written back": first, "sources": sources(t, immutable, first)} {
		for _, built := range []bool{false, true} {
			w.built = built
			out, r := w.mustRun(t, items, config)
			for _, kept := range []string{"migrate", "tool"} {
				if ofName(t, out, kept) != ofName(t, first, kept) {
					t.Errorf("%s: %s is now\n%s", name, kept, ofName(t, out, kept))
				}
			}
			for _, changed := range []string{"web", "often"} {
				if !strings.Contains(ofName(t, out, changed), "proxy:v9") {
					t.Errorf("%s: %s has not got the new image", name, changed)
				}
			}
			got := said(t, r)
			if strings.Contains(got, "warning") || !strings.Contains(got, "info: job prod/migrate: spec.template: stays as an earlier render wrote it, since Kubernetes lets nobody change it in a Job that exists: "+
				"image of meshless-init ghcr.io/meshless-dev/init:v0.1.0, not ghcr.io/meshless-dev/init:v9, image of meshless-proxy") {
				t.Errorf("%s: the render says\n%s", name, got)
			}
			checked := &report.Report{}
			verify.Check(out, verify.Options{Now: w.now, EveryWorkload: true, NoExclusions: true, Kinds: manifest.KindsOf(config.Spec)}, checked)
			if got := said(t, checked); checked.Failed() || !strings.Contains(got, "info: job prod/migrate: spec.template.spec.initContainers[1].image: is ghcr.io/meshless-dev/proxy:v0.1.0, and others run ghcr.io/meshless-dev/proxy:v9") {
				t.Errorf("%s: verify says\n%s", name, got)
			}
			if again, _ := w.mustRun(t, out, config); text(t, again) != text(t, out) {
				t.Errorf("%s: a further render changes something", name)
			}
		}
	}
}

// TestUpgradeKeepsTemplatesWithoutRules: it is the same without redirect rules.
func TestUpgradeKeepsTemplatesWithoutRules(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	config.Spec.Redirect.Mode = v1alpha1.RedirectNone
	first, _ := w.mustRun(t, parse(t, immutable), config)
	upgrade(config)
	for name, items := range map[string][]*yaml.RNode{"written back": first, "sources": sources(t, immutable, first)} {
		out, r := w.mustRun(t, items, config)
		for _, kept := range []string{"migrate", "tool"} {
			if was := ofName(t, first, kept); ofName(t, out, kept) != was || !strings.Contains(was, "--no-redirect") {
				t.Errorf("%s: %s was\n%s\nand is now\n%s", name, kept, was, ofName(t, out, kept))
			}
		}
		if got := said(t, r); strings.Contains(got, "is written anew") {
			t.Errorf("%s: the render says\n%s", name, got)
		}
	}
}

// TestWrittenAnew: whatever else changes a template takes the newer image into it, and so does a record that is gone,
// that was edited, or that names a program of somebody else's.
func TestWrittenAnew(t *testing.T) {
	w := newWorld(t)
	first, _ := w.mustRun(t, parse(t, immutable), w.config(t, plainConfig))
	for name, c := range map[string]struct {
		manifests func(string) string
		config    func(*v1alpha1.MutualTLS)
		record    func(string) string
	}{
		"the app": {manifests: func(s string) string { return strings.Replace(s, "migrate:1", "migrate:2", 1) }},
		"an override": {manifests: func(s string) string {
			return strings.Replace(s, "template:\n    spec:", "template:\n    metadata: {annotations: {meshless.dev/proxy-memory: 64Mi}}\n    spec:", 1)
		}},
		"exclusions": {config: func(c *v1alpha1.MutualTLS) {
			c.Spec.Outbound.ExcludePorts = v1alpha1.PortList{{Ports: netset.PortsOf(25)}}
		}},
		"no rules":           {config: func(c *v1alpha1.MutualTLS) { c.Spec.Redirect.Mode = v1alpha1.RedirectNone }},
		"FIPS 140-3":         {config: func(c *v1alpha1.MutualTLS) { c.Spec.Proxy.FIPS140 = true }},
		"another repository": {config: func(c *v1alpha1.MutualTLS) { c.Spec.Proxy.Image = "mirror.example/proxy:v9" }},
		"no record":          {record: func(string) string { return "" }},
		"another program": {record: func(s string) string {
			return strings.Replace(s, "ghcr.io/meshless-dev/proxy:", "evil.example/proxy:", 1)
		}},
		"another field":     {record: func(s string) string { return strings.Replace(s, "{", `{"command":"x",`, 1) }},
		"too little memory": {record: func(s string) string { return strings.Replace(s, "256Mi", "1Mi", 1) }},
		"no quantity":       {record: func(s string) string { return strings.Replace(s, "256Mi", "much", 1) }},
		"a bad level":       {record: func(s string) string { return strings.Replace(s, `"info"`, `"loud"`, 1) }},
		"another digest":    {record: func(s string) string { return strings.Replace(s, `"template":"`, `"template":"0`, 1) }},
	} {
		t.Run(name, func(t *testing.T) {
			config, manifests := w.config(t, plainConfig), immutable
			upgrade(config)
			if c.config != nil {
				c.config(config)
			}
			if c.manifests != nil {
				if manifests = c.manifests(immutable); manifests == immutable {
					t.Fatal("the case changes nothing")
				}
			}
			items := sources(t, manifests, first)
			for _, item := range items {
				if item.GetName() == "meshless-job-migrate" && c.record != nil {
					old := item.GetAnnotations()[api.WrittenAnnotation]
					now := c.record(old)
					if old == "" || now == old {
						t.Fatal("the case changes nothing")
					}
					set(t, item, now, "metadata", "annotations", api.WrittenAnnotation)
				}
			}
			out, r := w.mustRun(t, items, config)
			job := ofName(t, out, "migrate")
			if !strings.Contains(job, config.Spec.Proxy.Image) || !strings.Contains(job, config.Spec.Init.Image) || strings.Contains(job, "evil") {
				t.Errorf("the Job is\n%s", job)
			}
			if got := said(t, r); !strings.Contains(got, "warning: job prod/migrate: spec.template: is written anew by this render") {
				t.Errorf("the render says\n%s", got)
			}
		})
	}
}

// TestVerifyRefusesOtherImages: a record accounts for the template that it was written for, and for nothing else.
func TestVerifyRefusesOtherImages(t *testing.T) {
	w := newWorld(t)
	first, _ := w.mustRun(t, parse(t, immutable), w.config(t, plainConfig))
	for name, change := range map[string][2]string{
		"another image": {"image: ghcr.io/meshless-dev/proxy:v0.1.0", "image: ghcr.io/meshless-dev/proxy:v0.0.1"},
		"another app":   {"migrate:1", "migrate:2"},
	} {
		config := w.config(t, plainConfig)
		upgrade(config)
		out, _ := w.mustRun(t, first, config)
		var changed []*yaml.RNode
		for _, item := range out {
			if item.GetName() == "migrate" {
				now := strings.Replace(item.MustString(), change[0], change[1], 1)
				if now == item.MustString() {
					t.Fatalf("%s: changes nothing", name)
				}
				item = yaml.MustParse(now)
			}
			changed = append(changed, item)
		}
		r := &report.Report{}
		verify.Check(changed, verify.Options{Now: w.now, EveryWorkload: true, Kinds: manifest.KindsOf(config.Spec)}, r)
		if got := said(t, r); !strings.Contains(got, "error: job prod/migrate: spec.template.spec.initContainers[1].image: takes") {
			t.Errorf("%s: verify says\n%s", name, got)
		}
	}
}

// TestVerifyTakesRecordsFromState: a record counts where a render writes it, in the object whose leaf the workload
// mounts. Whoever may write the Job and some ConfigMap chooses no other program.
func TestVerifyTakesRecordsFromState(t *testing.T) {
	w := newWorld(t)
	out, _ := w.mustRun(t, parse(t, immutable), w.config(t, plainConfig))
	older := func(text string) string { return strings.ReplaceAll(text, "proxy:v0.1.0", "proxy:v0.0.1") }
	var changed []*yaml.RNode
	for _, item := range out {
		switch item.GetName() {
		case "migrate":
			item = yaml.MustParse(older(item.MustString()))
		case "meshless-job-migrate":
			planted := yaml.MustParse("{apiVersion: v1, kind: ConfigMap, metadata: {name: planted, namespace: prod}}")
			annotations := map[string]string{api.IdentityAnnotation: item.GetAnnotations()[api.IdentityAnnotation], api.WrittenAnnotation: older(item.GetAnnotations()[api.WrittenAnnotation])}
			if err := planted.SetAnnotations(annotations); err != nil {
				t.Fatal(err)
			}
			changed = append(changed, item, planted)
			continue
		}
		changed = append(changed, item)
	}
	r := &report.Report{}
	verify.Check(changed, verify.Options{Now: w.now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
	if got := said(t, r); !strings.Contains(got, "error: job prod/migrate: spec.template.spec.initContainers[1].image: takes") {
		t.Errorf("verify says\n%s", got)
	}
}
