// Package proxytest makes the proxy's files for tests, and puts them into a directory as the kubelet does. Tests and
// the programs below test import it.
package proxytest

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

// Must takes the place of a testing.TB where there is none, in an Example or a program. What would fail a test panics.
var Must testing.TB = must{}

type must struct{ testing.TB }

func (must) Helper() {}

func (must) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func (must) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// TrustDomain is that of every mesh of this package.
const TrustDomain = "cluster.local"

// ID is the SPIFFE ID of a Deployment in namespace prod.
func ID(name string) string { return "spiffe://" + TrustDomain + "/ns/prod/deployment/" + name }

// Mesh is a valid map without Services, Strict and open to the mesh, as changed.
func Mesh(changes ...func(*meshmap.Map)) *meshmap.Map {
	m := &meshmap.Map{APIVersion: api.APIVersion, Kind: "Mesh", TrustDomain: TrustDomain, ClusterDomain: "cluster.local", Namespace: "prod", Package: "test",
		Outbound: meshmap.Outbound{Unknown: meshmap.Passthrough}, Inbound: meshmap.Inbound{Mode: meshmap.Strict, Default: meshmap.AllowMesh}}
	for _, change := range changes {
		change(m)
	}
	return m
}

// Files are the content of a directory, by name.
type Files map[string][]byte

// Workload is everything a generation is made of.
type Workload struct {
	CA       *testca.CA
	Leaf     tls.Certificate
	Mesh     *meshmap.Map
	Workload podplan.Workload
}

// Sealed is the generation with its key in an age file.
func (w Workload) Sealed(tb testing.TB) Files {
	tb.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		tb.Fatal(err)
	}
	f := w.unkeyed(tb)
	f[api.IdentityFile] = []byte("# a comment\n" + identity.String() + "\n")
	f[api.SealedKeyFile] = Seal(tb, testca.KeyPEM(tb, w.Leaf), identity.Recipient())
	return f
}

// Plain is the generation with its key as another party has opened it.
func (w Workload) Plain(tb testing.TB) Files {
	tb.Helper()
	f := w.unkeyed(tb)
	f[api.PlainKeyFile] = testca.KeyPEM(tb, w.Leaf)
	return f
}

func (w Workload) unkeyed(tb testing.TB) Files {
	tb.Helper()
	mesh, err := w.Mesh.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	workload, err := w.Workload.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	return Files{api.LeafFile: svid.EncodeCertificates(w.Leaf.Leaf), api.BundleFile: w.CA.PEM(),
		api.MeshFile: mesh, api.WorkloadFile: workload}
}

// Seal is an armored age file.
func Seal(tb testing.TB, plain []byte, recipients ...age.Recipient) []byte {
	tb.Helper()
	var out bytes.Buffer
	armored := armor.NewWriter(&out)
	w, err := age.Encrypt(armored, recipients...)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := armored.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// With is a copy with one file replaced, or removed if content is nil.
func (f Files) With(name string, content []byte) Files {
	changed := maps.Clone(f)
	if changed[name] = content; content == nil {
		delete(changed, name)
	}
	return changed
}

// Publish puts the files into directory as the kubelet's AtomicWriter does: a new directory, one rename of ..data, and
// the old directory is gone.
func (f Files) Publish(tb testing.TB, directory string) {
	tb.Helper()
	check := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	link := filepath.Join(directory, "..data")
	old, oldErr := os.Readlink(link)
	version := "..2026_" + rand.Text()
	check(os.Mkdir(filepath.Join(directory, version), 0o755))
	for name, content := range f {
		check(os.WriteFile(filepath.Join(directory, version, name), content, 0o644))
	}
	check(os.Symlink(version, link+"_tmp"))
	check(os.Rename(link+"_tmp", link))
	for name := range f {
		if _, err := os.Lstat(filepath.Join(directory, name)); err != nil {
			check(os.Symlink(filepath.Join("..data", name), filepath.Join(directory, name)))
		}
	}
	if oldErr == nil {
		check(os.RemoveAll(filepath.Join(directory, old)))
	}
}
