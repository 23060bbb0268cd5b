//go:build e2e && linux

package helm

import (
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// Hooks that come when the release is there, and all.
const (
	afterwards = "hooks={post-install,post-upgrade,pre-delete}"
	all        = "hooks={pre-install,post-install,pre-upgrade,post-upgrade,pre-rollback,post-rollback,pre-delete}"
)

// TestHooks runs Jobs of hooks that ask a Strict workload.
func TestHooks(t *testing.T) {
	removeCRD(t)
	eachHelm(t, func(t *testing.T, h *helm) {
		r := newRelease(t, h, "helm-hooks", orders, "")
		if h.hooks {
			testHooksInTheMesh(t, r)
			return
		}
		r.set("callers=0", afterwards)
		r.issue(t, time.Now())
		testHooksOutside(t, r)
	})
}

// testHooksInTheMesh: those of Helm 4 have certificates, and ask over mutual TLS. Before the release is there,
// that is their own proxy.
func testHooksInTheMesh(t *testing.T, r *release) {
	r.set("callers=0", all)
	r.issue(t, time.Now())
	r.upgrade(t)
	r.wantHook(t, "pre-install", true)
	r.wantHook(t, "post-install", true)
	r.upgrade(t)
	r.wantHook(t, "pre-upgrade", true)
	r.wantHook(t, "post-upgrade", true)
	r.rollback(t, 1)
	r.wantHook(t, "pre-rollback", true)
	r.wantHook(t, "post-rollback", true)
	r.run(t, "uninstall", "my", "--timeout=60s")
	r.wantHook(t, "pre-delete", true)
}

// testHooksOutside: a hook of Helm 3 is refused, CI says so before, and each way out that it names works.
func testHooksOutside(t *testing.T, r *release) {
	stream, err := r.try(t, append([]string{"template", "my", r.chart}, r.values...)...)
	if err != nil {
		t.Fatal(err)
	}
	told, err := r.meshless(t, stream, "render", "--config", r.folder.Dir+"/mtls.yaml", "--state", r.folder.Dir+"/mtls", "-n", r.namespace, "--fail-on=warning", "-")
	if err == nil || !strings.Contains(told, "Helm 3 hands no hook to a post-renderer") {
		t.Errorf("CI says %v\n%s", err, told)
	}
	if out, err := r.tryUpgrade(t); err == nil || !strings.Contains(err.Error(), "post-install") {
		t.Errorf("a hook outside of the mesh: %v\n%s", err, out)
	}
	r.wantHook(t, "post-install", false)
	stage.Must(t, "", "-n", r.namespace, "wait", "--for=condition=Complete", "--timeout=60s", "job/migrate-v1") // the Job of the release is in the mesh

	r.values = append(r.values, `--set-string=webAnnotations.meshless\.dev/permissive-ports=8080`, "--set=migration=v2")
	r.issue(t, time.Now())
	r.upgrade(t, "--wait-for-jobs")
	r.wantHook(t, "post-upgrade", true)
	r.run(t, "uninstall", "my", "--timeout=60s")
	r.wantHook(t, "pre-delete", true)
}

// wantHook wants a hook's Job to have succeeded, in the mesh where hooks are, or to have failed.
func (r *release) wantHook(t *testing.T, name string, succeeded bool) {
	t.Helper()
	pods := stage.Pods(t, r.namespace, "job-name="+name)
	if len(pods) != 1 {
		t.Fatalf("%d pods of %s", len(pods), name)
	}
	if got := pods[0].Status.Phase; (got == "Succeeded") != succeeded {
		t.Errorf("%s: %s", name, got)
	}
	if meshed := pods[0].Annotations[api.WorkloadAnnotation] != ""; meshed != r.hooks {
		t.Errorf("%s is in the mesh: %v", name, meshed)
	}
}
