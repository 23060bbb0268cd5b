package pipeline_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/internal/api"
)

const ordered = `apiVersion: batch/v1
kind: Job
metadata: {name: web, namespace: prod, annotations: {%s}}
spec: {ttlSecondsAfterFinished: 1, template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}
`

// orderOf are the names of the state, each with the annotations that order it.
func orderOf(items []*yaml.RNode) map[string]string {
	order := map[string]string{}
	for _, item := range items {
		if item.GetAnnotations()[api.IdentityAnnotation] == "" || manifest.IsLocalConfig(item) {
			continue
		}
		name := item.GetKind() + " " + item.GetName()
		for _, prefix := range []string{api.BundleName(""), api.MeshName(""), api.MembersName("")} {
			if strings.HasPrefix(item.GetName(), prefix) { // the name of the package is drawn by lot
				name = item.GetKind() + " " + prefix
			}
		}
		var list []string
		for _, key := range manifest.OrderAnnotations {
			if value, written := item.GetAnnotations()[key]; written {
				list = append(list, key+"="+value)
			}
		}
		order[name] = strings.Join(list, " ")
	}
	return order
}

// TestOrderFollows: the state follows its workloads down, into a hook, and back to no wave at all, and no render before
// leaves a trace: what comes out is what a first render of the same makes.
func TestOrderFollows(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	out, _ := w.mustRun(t, parse(t, fmt.Sprintf(ordered, "")), config)
	plain := text(t, out)
	for _, annotations := range []string{
		`argocd.argoproj.io/sync-wave: "-1"`, `argocd.argoproj.io/sync-wave: "-3"`, `argocd.argoproj.io/sync-wave: "2"`,
		`argocd.argoproj.io/hook: PreSync`, `helm.sh/hook: pre-install`, `argocd.argoproj.io/hook: PostSync`, `helm.sh/hook: "pre-upgrade, post-upgrade", helm.sh/hook-weight: "7"`, "",
	} {
		job := parse(t, fmt.Sprintf(ordered, annotations))[0]
		for i, item := range out {
			if item.GetKind() == "Job" {
				out[i] = job
			}
		}
		out, _ = w.mustRun(t, out, config)
		again, _ := w.mustRun(t, out, config)
		if diff := cmp.Diff(text(t, out), text(t, again)); diff != "" {
			t.Errorf("{%s}: twice is not once:\n%s", annotations, diff)
		}
		fresh, _ := newWorld(t).mustRun(t, parse(t, fmt.Sprintf(ordered, annotations)), newWorld(t).config(t, plainConfig))
		if diff := cmp.Diff(orderOf(fresh), orderOf(out)); diff != "" {
			t.Errorf("{%s}: a first render orders otherwise (-first +this):\n%s", annotations, diff)
		}
	}
	if diff := cmp.Diff(plain, text(t, out)); diff != "" {
		t.Errorf("something is left of waves and hooks that are gone:\n%s", diff)
	}
}

// TestOwnWaves: a wave that somebody else wrote on state is the render's to set and to take off.
func TestOwnWaves(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	out, _ := w.mustRun(t, parse(t, fmt.Sprintf(ordered, `argocd.argoproj.io/sync-wave: "-1"`)), config)
	want := text(t, out)
	for _, item := range out {
		if item.GetKind() == "Secret" {
			set(t, item, "-20", "metadata", "annotations", manifest.WaveAnnotation)
		}
	}
	if again, _ := w.mustRun(t, out, config); text(t, again) != want {
		t.Errorf("got\n%s", cmp.Diff(want, text(t, again)))
	}
}

// TestManagedHooks: where cert-manager issues, the Certificate of a hook is the hook's.
func TestManagedHooks(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, "apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: mtls}\nspec: {certificates: {issuer: CertManager, certManager: {issuerRef: {name: mesh}}}}\n")
	out, _ := w.mustRun(t, parse(t, fmt.Sprintf(ordered, "argocd.argoproj.io/hook: PreSync")), config)
	const hook = "argocd.argoproj.io/sync-wave=-1 argocd.argoproj.io/hook=PreSync argocd.argoproj.io/hook-delete-policy=BeforeHookCreation"
	order := orderOf(out)
	for _, name := range []string{"Certificate meshless-job-web", "ConfigMap meshless-hook-mesh-job-web"} {
		if order[name] != hook {
			t.Errorf("%s: got %q, want %q", name, order[name], hook)
		}
	}
}
