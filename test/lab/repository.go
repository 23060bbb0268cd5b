//go:build linux

package lab

import (
	"errors"
	"net"
	"path"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

// Main is the TestMain of a package whose tests use a lab; it returns the exit code.
func Main(m *testing.M) int {
	Enter()
	return program.Main(m)
}

// NewMeshless is New with the images of this repository, or skips as Require does. iptables are folders of the image of
// the init container that has iptables (Image.Folders); nil adds none.
func NewMeshless(tb testing.TB, iptables map[string]string, options ...Option) *Lab {
	tb.Helper()
	Require(tb)
	image := func(pkg string, uid int) Image {
		return Image{Binary: program.Built(tb, pkg), Entrypoint: "/" + path.Base(pkg), UID: uid}
	}
	withIPTables := image("cmd/meshless-init", 0)
	withIPTables.Folders = iptables
	return New(tb, map[string]Image{
		api.InitIPTablesImage: withIPTables,
		api.InitImage:         image("cmd/meshless-init", 0),
		api.ProxyImage:        image("cmd/meshless-proxy", api.DefaultUID),
		example.AppImage:      image("test/app", 65534),
	}, options...)
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
