package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/config"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// full is a generation whose every file says something that matters.
func full(t testing.TB) proxytest.Workload {
	t.Helper()
	ca := testca.New(t, proxytest.TrustDomain)
	return proxytest.Workload{CA: ca, Leaf: ca.Issue(t, proxytest.ID("app")),
		Mesh: proxytest.Mesh(func(m *meshmap.Map) {
			m.Services = []meshmap.Service{{Host: "db.prod.svc.cluster.local", Identities: []string{proxytest.ID("db")}}}
			m.RevokedKeys = []string{strings.Repeat("ab", 32)}
			m.Inbound.Policy = []meshmap.Policy{{Workload: proxytest.ID("app"), Rules: []meshmap.Rule{{From: []string{proxytest.ID("web")}}}}}
		}),
		Workload: podplan.Workload{SPIFFEID: proxytest.ID("app"), PermissivePorts: netset.PortsOf(9090)}}
}

// judge reads the files as the proxy does, without a directory: there are many cases.
func judge(f proxytest.Files) (*identity.Snapshot, error) {
	g, err := generation(f)
	if err != nil {
		return nil, err
	}
	return identity.New(g, time.Now)
}

// secrets are the lines of a generation that no log may hold.
func secrets(t testing.TB, w proxytest.Workload, f proxytest.Files) []string {
	t.Helper()
	var found []string
	for _, text := range [][]byte{testca.KeyPEM(t, w.Leaf), f[api.IdentityFile]} {
		for line := range strings.SplitSeq(string(text), "\n") {
			if len(line) >= 20 && !strings.HasPrefix(line, "-----") && !strings.HasPrefix(line, "#") {
				found = append(found, line[:20])
			}
		}
	}
	return found
}

// checkCorrupt wants a changed generation refused without a word of a secret, or accepted without anything that counts
// being different. File is the one that was changed; what it alone says may differ where it was flipped, since nothing
// but the render's commit protects it.
func checkCorrupt(t *testing.T, good *identity.Snapshot, changed proxytest.Files, file string, private []string) (accepted bool) {
	t.Helper()
	got, err := judge(changed)
	if err != nil {
		for _, secret := range private {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error quotes a secret: %.40s...", err)
			}
		}
		if got != nil {
			t.Error("refused and returned")
		}
		return false
	}
	if !bytes.Equal(got.Leaf.Raw, good.Leaf.Raw) || got.ID != good.ID {
		t.Errorf("the leaf is another one: %s, %s", got.ID, got.Leaf.SerialNumber)
	}
	if file != api.BundleFile && !got.Bundle.Authorities()[0].Equal(good.Bundle.Authorities()[0]) {
		t.Error("the authority is another one")
	}
	key, ok := got.Bundle.Authorities()[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !key.Equal(good.Bundle.Authorities()[0].PublicKey) {
		t.Error("another authority's key is trusted")
	}
	if diff := cmp.Diff(good.Mesh, got.Mesh, meshCompare); file != api.MeshFile && diff != "" {
		t.Errorf("the map differs: %s", diff)
	}
	if diff := cmp.Diff(good.Workload, got.Workload); file != api.WorkloadFile && diff != "" {
		t.Errorf("the workload differs: %s", diff)
	}
	return true
}

var meshCompare = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}

// TestTruncatedFiles cuts each file everywhere: what a torn write leaves is refused, or says exactly the same (only a
// line end was lost). A map that had lost its Services at the end would send plaintext to them.
func TestTruncatedFiles(t *testing.T) {
	w := full(t)
	sealed := w.Sealed(t)
	private := secrets(t, w, sealed)
	good, err := judge(sealed)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range sealed {
		t.Run(name, func(t *testing.T) {
			accepted := 0
			for n := 0; n < len(content); n++ {
				if n%10 != 0 && n < len(content)-12 { // every tenth, and each near the end
					continue
				}
				if checkCorrupt(t, good, sealed.With(name, append([]byte{}, content[:n]...)), "", private) {
					accepted++
				}
			}
			if accepted > 2 {
				t.Errorf("%d cuts were accepted", accepted)
			}
		})
	}
}

// TestFlippedBits changes one bit at a time, each file many times, in places that are the same at every run.
func TestFlippedBits(t *testing.T) {
	w := full(t)
	sealed := w.Sealed(t)
	private := secrets(t, w, sealed)
	good, err := judge(sealed)
	if err != nil {
		t.Fatal(err)
	}
	flips := 150
	if testing.Short() {
		flips = 30
	}
	for name, content := range sealed {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(4, uint64(len(name))))
			accepted := 0
			for range flips {
				at, bit := random.IntN(len(content)), random.IntN(8)
				flipped := bytes.Clone(content)
				flipped[at] ^= 1 << bit
				if checkCorrupt(t, good, sealed.With(name, flipped), name, private) {
					accepted++
				}
				if t.Failed() {
					t.Fatalf("byte %d, bit %d", at, bit)
				}
			}
			t.Logf("%d of %d flips did not matter", accepted, flips)
		})
	}
}

// TestSwappedFiles mixes two good generations, file by file: leaf, key and identity are accepted only together, and a
// bundle only with its leaves.
func TestSwappedFiles(t *testing.T) {
	one, two := full(t), full(t)
	one.Mesh.RevokedKeys, two.Mesh.RevokedKeys = nil, nil
	a, b := one.Sealed(t), two.Sealed(t)
	names := []string{api.LeafFile, api.SealedKeyFile, api.IdentityFile, api.BundleFile}
	for mix := range 1 << len(names) {
		t.Run(fmt.Sprintf("%04b", mix), func(t *testing.T) {
			files := a
			for i, name := range names {
				if mix>>i&1 == 1 {
					files = files.With(name, b[name])
				}
			}
			got, err := judge(files)
			whole := mix == 0 || mix == 1<<len(names)-1
			if (err == nil) != whole {
				t.Errorf("accepted: %t, want %t (%v)", err == nil, whole, err)
			}
			want := one
			if mix > 0 {
				want = two
			}
			if err == nil && !got.Leaf.Equal(want.Leaf.Leaf) {
				t.Error("the leaf in use is another one's")
			}
		})
	}
}

// FuzzGeneration gives the proxy one changed file: it never panics, and what it accepts is still this workload, with a
// certificate that its peers accept.
func FuzzGeneration(f *testing.F) {
	w := full(f)
	sealed := w.Sealed(f)
	names := []string{api.LeafFile, api.SealedKeyFile, api.IdentityFile, api.BundleFile, api.MeshFile, api.WorkloadFile}
	for i, name := range names {
		f.Add(uint8(i), sealed[name])
		f.Add(uint8(i), append(bytes.Clone(sealed[name]), sealed[name]...))
	}
	f.Add(uint8(1), w.Plain(f)[api.PlainKeyFile])
	f.Fuzz(func(t *testing.T, which uint8, content []byte) {
		name := names[int(which)%len(names)]
		s, err := judge(sealed.With(name, content))
		if err != nil {
			return
		}
		if s.ID.String() != s.Workload.SPIFFEID {
			t.Errorf("identity is %s, workload %s", s.ID, s.Workload.SPIFFEID)
		}
		if _, err := s.VerifyPeer([]*x509.Certificate{s.Leaf}, x509.ExtKeyUsageClientAuth); err != nil {
			t.Errorf("peers would refuse what is in use: %v", err)
		}
	})
}

// generation is what package config makes of sealed files.
func generation(files proxytest.Files) (*config.Generation, error) {
	mesh, err := meshmap.Parse(files[api.MeshFile])
	if err != nil {
		return nil, err
	}
	workload, err := podplan.ParseWorkload(files[api.WorkloadFile])
	if err != nil {
		return nil, err
	}
	return &config.Generation{Mesh: mesh, Workload: workload, LeafPEM: files[api.LeafFile], BundlePEM: files[api.BundleFile],
		SealedKey: files[api.SealedKeyFile], Identity: files[api.IdentityFile]}, nil
}
