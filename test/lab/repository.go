//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
)

// BinDir holds the programs of this repository, while Main runs the tests and once NewMeshless was called.
var BinDir string

// Main is the TestMain of a package whose tests use NewMeshless; it returns the exit code.
func Main(m *testing.M) int {
	Enter()
	dir, err := os.MkdirTemp("", "meshless-programs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	BinDir = dir
	return m.Run()
}

var build = sync.OnceValue(func() error {
	for name, pkg := range map[string]string{"meshless": "cmd/meshless", "meshless-proxy": "cmd/meshless-proxy", "meshless-init": "cmd/meshless-init", "app": "test/app"} {
		if err := example.Build(filepath.Join(BinDir, name), pkg); err != nil {
			return err
		}
	}
	return nil
})

// NewMeshless is New with the images of this repository, or skips as Require does. iptables are folders of the image of
// the init container that has iptables (Image.Folders); nil adds none.
func NewMeshless(tb testing.TB, iptables map[string]string) *Lab {
	tb.Helper()
	Require(tb)
	if err := build(); err != nil {
		tb.Fatal(err)
	}
	image := func(name string, uid int) Image {
		return Image{Binary: filepath.Join(BinDir, name), Entrypoint: "/" + name, UID: uid}
	}
	withIPTables := image("meshless-init", 0)
	withIPTables.Folders = iptables
	return New(tb, map[string]Image{
		api.InitIPTablesImage: withIPTables,
		api.InitImage:         image("meshless-init", 0),
		api.ProxyImage:        image("meshless-proxy", api.DefaultUID),
		example.AppImage:      image("app", 65534),
	})
}

// WantRefused wants the connection closed without a byte of the app, and not by a time-out: who is told no is not left
// waiting.
func WantRefused(tb testing.TB, who, answer string, err error) {
	tb.Helper()
	var netErr net.Error
	switch {
	case answer != "":
		tb.Errorf("%s was answered: %q", who, answer)
	case err == nil:
		tb.Errorf("%s: no answer and no error", who)
	case errors.As(err, &netErr) && netErr.Timeout():
		tb.Errorf("%s was left waiting: %v", who, err)
	}
}
