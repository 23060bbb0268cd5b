package main

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/internal/svid"
)

//go:embed explicit.go.txt
var explicitMain []byte

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
	source, overlay := filepath.Join(dir, "explicit.go"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(tree, "proxy", "sidecar", "explicit_bench.go"): source}})
	if err != nil {
		return b, err
	}
	for path, content := range map[string][]byte{source: explicitMain, overlay: replace} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return b, err
		}
	}
	for _, c := range [][]string{{b.Proxy, "./cmd/meshless-proxy"}, {b.Explicit, "./cmd/meshless-proxy", "-overlay", overlay}, {b.Init, "./cmd/meshless-init"}} {
		args := append([]string{"build", "-trimpath"}, c[2:]...)
		if !symbols {
			args = append(args, "-ldflags=-s -w")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		build := exec.CommandContext(ctx, "go", append(args, "-o", c[0], c[1])...)
		build.Dir, build.Env = tree, append(os.Environ(), "CGO_ENABLED=0")
		out, err := build.CombinedOutput()
		cancel()
		if err != nil {
			return b, fmt.Errorf("go build %s in %s: %w\n%s", c[1], tree, err, out)
		}
	}
	return b, nil
}

// publish puts a new generation of our files into dir as the kubelet does: a new directory, one rename of ..data, and
// the old one is gone. The key is sealed, as by default.
func (a *authority) publish(dir, name string, server netip.Addr) error {
	files, err := a.generation(name, server)
	if err != nil {
		return err
	}
	link := filepath.Join(dir, "..data")
	old, oldErr := os.Readlink(link)
	version := "..2026_" + rand.Text()
	if err := os.Mkdir(filepath.Join(dir, version), 0o755); err != nil {
		return err
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, version, file), content, 0o644); err != nil {
			return err
		}
	}
	if err := os.Symlink(version, link+"_tmp"); err != nil {
		return err
	}
	if err := os.Rename(link+"_tmp", link); err != nil {
		return err
	}
	if oldErr == nil {
		return os.RemoveAll(filepath.Join(dir, old))
	}
	for file := range files {
		if err := os.Symlink(filepath.Join("..data", file), filepath.Join(dir, file)); err != nil {
			return err
		}
	}
	return nil
}

// generation is what a render gives a workload; the server's address is in the map as that of a Service.
func (a *authority) generation(name string, server netip.Addr) (map[string][]byte, error) {
	leaf, err := a.issue(name)
	if err != nil {
		return nil, err
	}
	key, err := keyPEM(leaf)
	if err != nil {
		return nil, err
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	sealed, err := seal(key, identity.Recipient())
	if err != nil {
		return nil, err
	}
	mesh := &meshmap.Map{APIVersion: api.APIVersion, Kind: "Mesh", TrustDomain: trustDomain, ClusterDomain: api.DefaultDomain,
		Outbound: meshmap.Outbound{Unknown: meshmap.Passthrough}, Inbound: meshmap.Inbound{Mode: meshmap.Strict, Default: meshmap.AllowMesh}}
	if server.IsValid() {
		mesh.Services = []meshmap.Service{{Host: serverHost, ClusterIPs: []netip.Addr{server}, Identities: []string{spiffeID("server")}}}
	}
	text, err := mesh.Marshal()
	if err != nil {
		return nil, err
	}
	workload, err := (&podplan.Workload{SPIFFEID: spiffeID(name)}).Marshal()
	return map[string][]byte{api.LeafFile: svid.EncodeCertificates(leaf.Leaf), api.BundleFile: svid.EncodeCertificates(a.certificate),
		api.SealedKeyFile: sealed, api.IdentityFile: []byte(identity.String() + "\n"), api.MeshFile: text, api.WorkloadFile: workload}, err
}

// seal is an armored age file.
func seal(plain []byte, to age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	armored := armor.NewWriter(&out)
	w, err := age.Encrypt(armored, to)
	if err != nil {
		return nil, err
	}
	if _, err = w.Write(plain); err == nil {
		err = w.Close()
	}
	if err == nil {
		err = armored.Close()
	}
	return out.Bytes(), err
}
