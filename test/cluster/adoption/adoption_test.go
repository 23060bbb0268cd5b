//go:build e2e && linux

package adoption

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

const namespace = "adoption"

// TestAdoption leaves nothing behind, but for the identity, which no manifest names.
func TestAdoption(t *testing.T) {
	t.Setenv("KUBECTL_APPLYSET", "true") // of kubectl: --prune --applyset is alpha
	stage.Adopt(t, namespace, kubectl{})
	if diff := cmp.Diff([]string{"Secret/meshless-identity"}, stage.Leftovers(t, namespace)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

// kubectl is the engine of those who have none. A Job that exists is deleted first, as docs/adoption.md says.
type kubectl struct{}

func (kubectl) Sync(t *testing.T, folder *example.Example) {
	t.Helper()
	stage.Must(t, "", "-n", namespace, "delete", "job", "migrate", "--ignore-not-found")
	stage.Must(t, folder.Render(t), "-n", namespace, "apply", "--server-side", "--force-conflicts", "--prune", "--applyset=configmap/adoption", "-f", "-")
}
