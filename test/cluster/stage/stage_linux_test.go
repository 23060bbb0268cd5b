package stage

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

// The manifests of the tests render and pass `meshless verify`: that is seen here, before there is a cluster.
func TestManifestsRender(t *testing.T) {
	for file, config := range map[string]string{
		"../kinds/testdata/kinds.yaml": "", "../kinds/testdata/container.yaml": "  sidecar: {mode: Container}\n",
		"../failures/testdata/pair.yaml": "", "../kubeproxy/testdata/ways.yaml": "", "../callers/testdata/hook.yaml": "",
		"../restricted/testdata/restricted.yaml": "  redirect: {none: [{namespace: restricted}]}\n",
	} {
		manifests, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		namespace := "rendered"
		if strings.Contains(file, "restricted") { // of two namespaces
			namespace = ""
		}
		e := Package(t, namespace, string(manifests), config)
		e.Issue(t, time.Now())
		Render(t, e)
	}
	folder := ChainFolder(t, "rendered")
	folder.Issue(t, time.Now())
	r := Read(t, Render(t, folder))
	for id := range r.Leaves {
		if _, err := r.Open(id, folder.Cluster); err != nil {
			t.Errorf("open %s: %v", id, err)
		}
		if _, err := r.Open(id, example.NewIdentity(t)); err == nil {
			t.Errorf("%s is opened by an identity of nobody", id)
		}
	}
	if len(r.Leaves) != len(Callers)+1 {
		t.Errorf("%d leaves, want one of each caller and of back", len(r.Leaves))
	}
}
