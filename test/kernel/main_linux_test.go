package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

const shopImage = "ghcr.io/meshless-dev/shop:" + api.Version

func TestMain(m *testing.M) {
	lab.Enter()
	os.Exit(run(m))
}

// binDir holds the programs under test, built once.
var binDir string

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "meshless-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binDir = dir
	return m.Run()
}

var build = sync.OnceValue(func() error {
	for name, pkg := range map[string]string{"meshless": "cmd/meshless", "meshless-proxy": "cmd/meshless-proxy", "meshless-init": "cmd/meshless-init", "shop": "examples/shop/app", "talk": "test/talk/server"} {
		if err := example.Build(filepath.Join(binDir, name), pkg); err != nil {
			return err
		}
	}
	return nil
})

// newLab makes a node that has the images of this repository.
func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	return labWith(t, nil)
}

// labWith is newLab with more folders in the image of the init container that has iptables.
func labWith(t *testing.T, programs map[string]string) *lab.Lab {
	t.Helper()
	lab.Require(t)
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return lab.New(t, map[string]lab.Image{
		api.InitIPTablesImage: {Binary: filepath.Join(binDir, "meshless-init"), Entrypoint: "/meshless-init", UID: 0, Folders: programs},

		api.InitImage:  {Binary: filepath.Join(binDir, "meshless-init"), Entrypoint: "/meshless-init", UID: 0},
		api.ProxyImage: {Binary: filepath.Join(binDir, "meshless-proxy"), Entrypoint: "/meshless-proxy", UID: api.DefaultUID},
		shopImage:      {Binary: filepath.Join(binDir, "shop"), Entrypoint: "/shop", UID: 65534},
		talkImage:      {Binary: filepath.Join(binDir, "talk"), Entrypoint: "/talk", UID: 65534},
	})
}
