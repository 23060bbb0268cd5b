//go:build e2e && linux

package flux

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

// testAdoption takes an app that Flux has synced from its sources into the mesh and out again, by the commits of
// docs/adoption.md.
func testAdoption(t *testing.T, r *room) {
	const name = "flux-adoption"
	stage.Adopt(t, name, &engine{room: r, name: name})
	if diff := cmp.Diff([]string{"Secret/meshless-identity"}, stage.Leftovers(t, name)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

// engine is Flux: one Kustomization, which syncs the sources as they are outside of the mesh, and in it what CI has
// rendered.
type engine struct {
	room *room
	name string
	app  *app // once there is a folder
}

// Sync implements stage.Engine.
func (e *engine) Sync(t *testing.T, folder *example.Example) {
	t.Helper()
	if e.app == nil {
		e.app = e.room.newApp(t, e.name, folder)
	}
	a := e.app
	if strings.Contains(read(t, filepath.Join(folder.Dir, "kustomization.yaml")), "transformers:") {
		a.push(t)
		stage.Must(t, a.alone(t, ""), "apply", "-f", "-")
		a.sync(t)
		return
	}
	a.commit(t)
	sources := strings.NewReplacer("branch: "+a.branch(), "branch: main", "path: ./", "path: ./"+filepath.Base(folder.Dir)).Replace(a.alone(t, ""))
	stage.Must(t, sources, "apply", "-f", "-")
	a.reconcile(t, a.name, "main", applied)
}
