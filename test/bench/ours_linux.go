package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// The environments of our proxy: X25519MLKEM768 is Go's default; GODEBUG takes it away, so that the key exchange is
// that of the peers.
var (
	hybridKeys    = []string(nil)
	classicalKeys = []string{"GODEBUG=tlsmlkem=0,tlssecpmlkem=0"}
)

// binaries are our programs, built from one tree.
type binaries struct{ Proxy, Explicit, Init string }

// buildOurs builds our programs from the tree into dir, with the flags of the Makefile; symbols keeps what perf reads.
func buildOurs(tree, dir string, symbols bool) (b binaries, err error) {
	b = binaries{filepath.Join(dir, "meshless-proxy"), filepath.Join(dir, "meshless-proxy-explicit"), filepath.Join(dir, "meshless-init")}
	if tree, err = filepath.Abs(tree); err != nil {
		return b, err
	}
	for path, command := range map[string]string{b.Proxy: "./cmd/meshless-proxy", b.Explicit: "./test/bench/explicit", b.Init: "./cmd/meshless-init"} {
		args := []string{"build", "-trimpath"}
		if !symbols {
			args = append(args, "-ldflags=-s -w")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		build := exec.CommandContext(ctx, "go", append(args, "-o", path, command)...)
		build.Dir, build.Env = tree, append(os.Environ(), "CGO_ENABLED=0")
		out, err := build.CombinedOutput()
		cancel()
		if err != nil {
			return b, fmt.Errorf("go build %s in %s: %w\n%s", command, tree, err, out)
		}
	}
	return b, nil
}

// publish puts a new generation of our files into dir, as a render and the kubelet do. The key is sealed, as by
// default. The server's address is in the map as that of a Service.
func (a authority) publish(dir, name string, server netip.Addr) {
	mesh := proxytest.Mesh(func(m *meshmap.Map) {
		if server.IsValid() {
			m.Services = []meshmap.Service{{Host: serverHost, ClusterIPs: []netip.Addr{server}, Identities: []string{proxytest.ID("server")}}}
		}
	})
	files := proxytest.Workload{CA: a.CA, Leaf: a.issue(name), Mesh: mesh, Workload: podplan.Workload{SPIFFEID: proxytest.ID(name)}}
	files.Sealed(proxytest.Must).Publish(proxytest.Must, dir)
}
