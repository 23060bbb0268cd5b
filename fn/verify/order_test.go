package verify_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/report"
)

// hooked is a Job that runs before the rest of its package, and one that does not.
var hooked = strings.Replace(manifests, "  name: once\n", "  name: once\n  annotations: {argocd.argoproj.io/hook: PreSync}\n", 1)

// annotatedIn is rendered manifests in which an object has an annotation, or where the value is "" has none.
func annotatedIn(t *testing.T, text, object, key, value string) string {
	t.Helper()
	items := parse(t, text)
	for _, item := range items {
		if report.ObjectOf(item).String() != object {
			continue
		}
		change := yaml.FilterFunc(func(n *yaml.RNode) (*yaml.RNode, error) { return n.Pipe(yaml.SetAnnotation(key, value)) })
		if value == "" {
			change = func(n *yaml.RNode) (*yaml.RNode, error) { return n.Pipe(yaml.ClearAnnotation(key)) }
		}
		if _, err := item.Pipe(change); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for _, item := range items {
			out.WriteString("---\n" + item.MustString())
		}
		return out.String()
	}
	t.Fatalf("no %s in\n%s", object, text)
	return ""
}

// TestInTime: what was patched behind the render, so that Argo CD or Helm applies a pod before what it mounts.
func TestInTime(t *testing.T) {
	const (
		wave, hook = "argocd.argoproj.io/sync-wave", "argocd.argoproj.io/hook"
		late       = "sync-wave]: is applied by Argo CD in wave 0, and deployment prod/web, which mounts it, in wave -1"
	)
	same := func(*v1alpha1.Spec) {}
	plain, apart := renderedFrom(t, manifests, same), renderedFrom(t, hooked, same)
	early := renderedFrom(t, strings.Replace(manifests, "  name: web\n", "  name: web\n  annotations: {"+wave+": '-1'}\n", 1), same)
	copied := strings.Replace(apart, "hook-mesh-job-once\n", "hook-mesh-job-else\n", 1)
	for name, test := range map[string]struct{ text, want string }{
		"plain":               {plain, ""},
		"a hook":              {apart, ""},
		"a wave":              {early, ""},
		"a wave of both":      {annotatedIn(t, early, "secret prod/meshless-deployment-web", wave, "-1"), ""},
		"lower still":         {annotatedIn(t, early, "secret prod/meshless-deployment-web", wave, "-9"), ""},
		"an earlier workload": {annotatedIn(t, plain, "deployment prod/web", wave, "-1"), late},
		"a later Secret":      {annotatedIn(t, early, "secret prod/meshless-deployment-web", wave, ""), late},
		"a weight":            {annotatedIn(t, early, "secret prod/meshless-deployment-web", wave, "abc"), late},
		"no phase with state": {annotatedIn(t, annotatedIn(t, plain, "deployment prod/web", wave, "-1"), "deployment prod/web", hook, "PostSync"), ""},
		"a Secret that goes":  {annotatedIn(t, plain, "secret prod/meshless-deployment-web", hook, "PostSync"), "makes it a hook of Argo CD or Helm, which comes and goes"},
		"a hook behind":       {annotatedIn(t, plain, "job ops/once", hook, "PreSync"), `must mount configmap "meshless-hook-mesh-job-once"`},
		"no hook any more":    {annotatedIn(t, apart, "job ops/once", hook, ""), "a hook before or after the rest of the package has its own"},
		"another phase":       {annotatedIn(t, apart, "job ops/once", hook, "SyncFail"), `is "PreSync", and must be "SyncFail"`},
		"a later phase":       {annotatedIn(t, apart, "secret ops/meshless-job-once", hook, "Sync"), `is "Sync", and must be "PreSync"`},
		"a later copy":        {annotatedIn(t, apart, "configmap ops/meshless-hook-mesh-job-once", wave, "0"), `is "0", and must be "-1"`},
		"an earlier copy":     {annotatedIn(t, apart, "configmap ops/meshless-hook-mesh-job-once", wave, "-7"), ""},
		"deleted too early":   {annotatedIn(t, apart, "secret ops/meshless-job-once", hook+"-delete-policy", "HookSucceeded"), `is "HookSucceeded", and must be "BeforeHookCreation"`},
		"a copy of nobody":    {annotatedIn(t, apart, "configmap ops/meshless-hook-mesh-job-once", "meshless.dev/identity", "spiffe://cluster.local/ns/ops/job/two"), "no injected workload of that identity"},
		"without its copy":    {copied, `must mount configmap "meshless-hook-mesh-job-once"`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := said(t, test.text); (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("said %q, want %q", got, test.want)
			}
		})
	}
	at := strings.Index(apart, "name: meshless-hook-mesh-job-once\n  namespace")
	tampered := apart[:at] + strings.Replace(apart[at:], "mode: Strict", "mode: Permissive", 1)
	if got := said(t, tampered); !strings.Contains(got, "is not what the ConfigMap of the namespace holds") {
		t.Errorf("of a copy that says otherwise: %q", got)
	}
}
