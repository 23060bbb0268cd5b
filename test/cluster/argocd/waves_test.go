//go:build e2e && linux

package argocd

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

// app is a package of testdata/app.yaml and more, in a namespace that has its identity.
func app(t *testing.T, name, more string, change func(string) string) *example.Example {
	t.Helper()
	manifests, err := os.ReadFile("testdata/app.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(manifests), "the-marker", marker(name), 1) + more
	if change != nil {
		text = change(text)
	}
	e := stage.Package(t, name, text, "")
	stage.NewNamespace(t, name)
	stage.Must(t, e.IdentitySecret(name), "apply", "-f", "-")
	return e
}

// marker is in the requests of the app.
func marker(name string) string { return "the-marker-of-" + name }

// waved is an app whose database comes in an earlier wave, and with a migration before each sync.
func waved(t *testing.T, name string) *example.Example {
	t.Helper()
	migrate, err := os.ReadFile("testdata/migrate.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return app(t, name, "---\n"+string(migrate), func(text string) string {
		return strings.Replace(text, "kind: StatefulSet\nmetadata: {name: db}", `kind: StatefulSet
metadata: {name: db, annotations: {argocd.argoproj.io/sync-wave: "-1"}}`, 1)
	})
}

// testWaves: workloads in early waves and hooks before the sync find what their proxies need, on an empty cluster.
func testWaves(t *testing.T, h *host) {
	const name = "argo-waves"
	e := waved(t, name)
	e.Issue(t, time.Now())
	r := h.repository(t, name, "rendered")
	a := apply(t, name, source(r, ".", ""), `{}`)
	wantHook(t, a.Sync(t, r.CommitFiles(t, map[string]string{"manifests.yaml": stage.Render(t, e)})))
	wantMeshed(t, name, 2)
	wantHook(t, a.Sync(t, "")) // once more, with what is there
	a.WantInSync(t)
}

// testWavesAdopted: the same with an app that runs outside of the mesh.
func testWavesAdopted(t *testing.T, h *host) {
	const name = "argo-waves-adopted"
	e := waved(t, name)
	r := h.repository(t, name, "rendered")
	a := apply(t, name, source(r, ".", ""), `{}`)
	meshed := ""
	e.Edit(t, "kustomization.yaml", func(text string) string {
		meshed = text
		return "resources: [pod.yaml]\nnamespace: " + name + "\n"
	})
	a.Sync(t, r.CommitFiles(t, map[string]string{"manifests.yaml": e.Plain(t)}))
	e.Write(t, "kustomization.yaml", meshed)
	e.Issue(t, time.Now())
	wantHook(t, a.Sync(t, r.CommitFiles(t, map[string]string{"manifests.yaml": stage.Render(t, e)})))
	wantMeshed(t, name, 2)
	a.WantInSync(t)
}

// wantHook wants that the migration ran, and in the mesh.
func wantHook(t *testing.T, s status) {
	t.Helper()
	for _, r := range s.Status.OperationState.SyncResult.Resources {
		if r.Kind == "Job" && r.Name == "migrate" && r.HookPhase == "Succeeded" {
			return
		}
	}
	t.Errorf("the hook did not succeed: %v", s.Status.OperationState.SyncResult.Resources)
}
