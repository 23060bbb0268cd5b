//go:build e2e && linux

package argocd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

// engine brings a folder to the cluster as CI and Argo CD do: rendered into a branch, and synced.
type engine struct {
	branch      *repository
	application *application
}

// Sync is that of stage.Engine.
func (e *engine) Sync(t *testing.T, folder *example.Example) {
	t.Helper()
	kustomization, err := os.ReadFile(filepath.Join(folder.Dir, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var manifests string
	if strings.Contains(string(kustomization), "transformers:") {
		manifests = stage.Render(t, folder)
	} else {
		manifests = folder.Plain(t)
	}
	e.application.Sync(t, e.branch.CommitFiles(t, map[string]string{"manifests.yaml": manifests}))
}

// testAdoption goes the way of docs/adoption.md, in and out, with Argo CD.
func testAdoption(t *testing.T, h *host) {
	const name = "argo-adoption"
	branch := h.repository(t, name, "rendered")
	stage.Adopt(t, name, &engine{branch, apply(t, name, source(branch, ".", ""), `{}`)})
}
