//go:build e2e && linux

package kptlive

import (
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

const namespace = "kpt-live"

// TestLive takes the shop through its life as a kpt package. Nothing but kpt writes to the namespace.
func TestLive(t *testing.T) {
	k := &kpt{program: program.Find(t, "kpt", "its releases are at https://github.com/kptdev/kpt/releases")}
	stage.NewNamespace(t, namespace)
	k.folder = example.Copy(t, "../../../examples/shop")
	for _, file := range []string{"api", "db", "report", "web"} {
		k.folder.Replace(t, filepath.Join("base", file+".yaml"), "namespace: shop", "namespace: "+namespace)
	}
	stage.Must(t, k.folder.IdentitySecret(namespace), "apply", "-f", "-")
	k.folder.IssuePackage(t, time.Now().Add(-20*24*time.Hour)) // due, and valid
	k.run(t, "live", "init", k.folder.Dir, "--namespace", namespace, "--name", "shop")
	t.Cleanup(func() {
		if _, err := stage.Kubectl("", "delete", "crd", "resourcegroups.kpt.dev", "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	k.run(t, "live", "install-resource-group")
	k.apply(t)
	for _, pod := range stage.Pods(t, namespace, "app.kubernetes.io/name=web") {
		if !stage.IsReady(pod) || len(pod.Spec.InitContainers) != 2 {
			t.Errorf("%s is not ready in the mesh", pod.Name)
		}
	}
	first := stage.Settled(t, namespace)
	for name := range first {
		if strings.Contains(name, "mtls") || strings.Contains(name, "CertificateAuthority") {
			t.Errorf("%s was applied, and is local config", name)
		}
	}
	k.apply(t)
	stage.WantSame(t, first, stage.Settled(t, namespace))

	k.folder.IssuePackage(t, time.Now())
	k.apply(t)
	k.wantWritten(t, first, "Secret/meshless-cronjob-report", "Secret/meshless-deployment-api", "Secret/meshless-deployment-web", "Secret/meshless-statefulset-db")

	k.disable(t)
	k.apply(t)
	if _, still := stage.Settled(t, namespace)["Secret/meshless-cronjob-report"]; still {
		t.Error("the Secret of a workload that has left the mesh was not pruned")
	}
	k.run(t, "live", "destroy", k.folder.Dir)
	for name := range stage.Snapshot(t, namespace) {
		if strings.Contains(name, "/meshless-") && name != "Secret/meshless-identity" {
			t.Errorf("%s is left", name)
		}
	}
}

type kpt struct {
	program string
	folder  *example.Example
}

func (k *kpt) run(t *testing.T, args ...string) {
	t.Helper()
	started := time.Now()
	out, err := exec.CommandContext(t.Context(), k.program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("kpt %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	t.Logf("kpt %s: %v", strings.Join(args[:2], " "), time.Since(started).Round(100*time.Millisecond))
}

func (k *kpt) apply(t *testing.T) {
	t.Helper()
	k.run(t, "live", "apply", k.folder.Dir, "--reconcile-timeout=100s", "--output=events")
}

// disable takes the report out of the mesh.
func (k *kpt) disable(t *testing.T) {
	t.Helper()
	k.folder.Edit(t, "base/report.yaml", func(text string) string {
		return strings.Replace(text, "annotations:\n", "annotations:\n            meshless.dev/inject: disabled\n", 1)
	})
	k.folder.IssuePackage(t, time.Now())
}

// wantWritten wants these objects, and no others, to have been written since.
func (k *kpt) wantWritten(t *testing.T, before map[string]stage.Object, want ...string) {
	t.Helper()
	now := stage.Settled(t, namespace)
	changed := slices.DeleteFunc(slices.Sorted(maps.Keys(now)), func(name string) bool {
		return strings.HasPrefix(name, "Pod/") || before[name].Metadata.ResourceVersion == now[name].Metadata.ResourceVersion
	})
	if diff := cmp.Diff(want, changed); diff != "" {
		t.Errorf("written:\n%s", diff)
	}
}
