package cli_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/kio"

	"github.com/meshless-dev/meshless/fn/cli"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// generation is what a cluster has of a package after a sync: the leaves that its pods show, the bundle by which they
// judge others, and the keys that they refuse.
type generation struct {
	leaves  map[string]*x509.Certificate // by file
	bundle  []*x509.Certificate
	revoked []string
	at      time.Time // of the sync
}

// fleet is packages that share one CertificateAuthority, each in the clusters of today and, where a node is late, of
// yesterday.
type fleet struct {
	t      *testing.T
	folder string
	now    time.Time
	synced map[string][]generation // by package; the newest last
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	ca, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("MESHLESS_CA_IDENTITY", ca.String())
	f := &fleet{t: t, folder: t.TempDir(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), synced: map[string][]generation{}}
	for name, validity := range map[string]string{"a": "720h", "b": "2160h"} {
		// each knows nothing of the other's validity
		f.write(name+"/Kptfile", "apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata: {name: "+name+"}\n")
		f.write(name+"/pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: "+name+", namespace: prod}\nspec: {containers: [{name: c, image: x}]}\n")
		f.write(name+"/mtls.yaml", fmt.Sprintf("apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: mtls, annotations: {config.kubernetes.io/local-config: \"true\"}}\n"+
			"spec:\n  sealing: {recipients: [%s]}\n  certificates: {validity: %s, ca: {recipients: [%s]}}\n", cluster.Recipient(), validity, ca.Recipient()))
	}
	return f
}

func (f *fleet) write(name, text string) {
	f.t.Helper()
	file := filepath.Join(f.folder, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// run runs a command on a package, with the shared CertificateAuthority, and returns what it said.
func (f *fleet) run(command, name string, args ...string) (code int, said string) {
	f.t.Helper()
	var out bytes.Buffer
	args = append([]string{command, "--ca", filepath.Join(f.folder, "ca.yaml"), filepath.Join(f.folder, name)}, args...)
	code = cli.MainAt(f.now, args, strings.NewReader(""), &out, &out)
	return code, out.String()
}

// must is run, which must succeed; the cluster of the package then syncs.
func (f *fleet) must(command, name string, args ...string) string {
	f.t.Helper()
	code, said := f.run(command, name, args...)
	if code != 0 {
		f.t.Fatalf("%s: %s %s: %s", f.now, command, name, said)
	}
	return said
}

// sync brings the package to its cluster. The generation before stays on nodes that are late, for a day.
func (f *fleet) sync(name string) {
	f.t.Helper()
	g := generation{leaves: map[string]*x509.Certificate{}, at: f.now}
	err := filepath.WalkDir(filepath.Join(f.folder, name, "mtls"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		items, err := kio.FromBytes(text)
		if err != nil {
			return err
		}
		for _, item := range items {
			data := item.GetDataMap()
			if text, ok := data[api.BundleFile]; ok {
				g.bundle, err = svid.ParseCertificates([]byte(text))
				if keys := item.GetAnnotations()[api.RevokedAnnotation]; keys != "" {
					g.revoked = strings.Split(keys, ",")
				}
			}
			if text, ok := data[api.LeafFile]; ok {
				var leaf []*x509.Certificate
				plain, _ := base64.StdEncoding.DecodeString(text)
				if leaf, err = svid.ParseCertificates(plain); err == nil {
					g.leaves[path] = leaf[0]
				}
			}
		}
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.synced[name] = append(f.synced[name], g)
	f.synced[name] = f.synced[name][max(0, len(f.synced[name])-2):]
}

// inUse are the generations that some node of a package's cluster has.
func (f *fleet) inUse(name string) []generation {
	all := f.synced[name]
	if len(all) == 2 && f.now.Sub(all[1].at) > 24*time.Hour {
		return all[1:]
	}
	return all
}

// check: every pod accepts every other, on nodes that are up to date and on ones that are late.
func (f *fleet) check() {
	f.t.Helper()
	for from := range maps.Keys(f.synced) {
		for to := range maps.Keys(f.synced) {
			for i, client := range f.inUse(from) {
				for j, server := range f.inUse(to) {
					bundle, err := svid.NewBundle(spiffeid.RequireTrustDomainFromString("cluster.local"), server.bundle, server.revoked)
					if err != nil {
						f.t.Fatal(err)
					}
					for file, leaf := range client.leaves {
						if _, err := bundle.VerifyLeaf(leaf, f.now); err != nil {
							f.t.Fatalf("%s: %s (of %s, sync %d) is refused by %s (sync %d): %v", f.now, filepath.Base(file), from, i, to, j, err)
						}
					}
				}
			}
		}
	}
}

// TestSharedCA: two packages that know nothing of each other share a CertificateAuthority over three signing periods.
// One is issued daily, the other every six weeks, and nobody ever refuses anybody.
func TestSharedCA(t *testing.T) {
	slow(t)
	f := newFleet(t)
	promoted := 0
	for day := range 3*90 + 30 {
		said := f.must("issue", "a")
		promoted += strings.Count(said, "is Active now")
		f.sync("a")
		if day%44 == 0 {
			promoted += strings.Count(f.must("issue", "b"), "is Active now")
		}
		f.sync("b")
		f.check()
		f.now = f.now.Add(24 * time.Hour)
	}
	if promoted < 4 {
		t.Errorf("%d authorities were Active in the whole time", promoted)
	}
	for _, name := range []string{"a", "b"} {
		if _, err := os.Stat(filepath.Join(f.folder, name, "mtls", "ca.yaml")); err == nil {
			t.Errorf("package %s has a CertificateAuthority of its own", name)
		}
	}
}

// TestSharedCAIsReplaced: --replace-ca in one package brings all of them to the new authorities, when each is issued
// daily.
func TestSharedCAIsReplaced(t *testing.T) {
	f := newFleet(t)
	var first []*x509.Certificate
	for day := range 8 {
		for _, name := range []string{"a", "b"} {
			if day == 3 && name == "a" {
				f.must("issue", name, "--replace-ca")
			} else {
				f.must("issue", name)
			}
			f.sync(name)
			f.check()
		}
		if day == 0 {
			first = f.synced["b"][0].bundle
		}
		f.now = f.now.Add(49 * time.Hour)
	}
	for name := range f.synced {
		for _, old := range first {
			for _, ca := range f.synced[name][1].bundle {
				if ca.Equal(old) {
					t.Errorf("%s still trusts %s", name, ca.Subject.CommonName)
				}
			}
		}
	}
	if said := f.must("issue", "b"); !strings.Contains(said, "nothing is due") {
		t.Errorf("the end is not quiet: %s", said)
	}
}

// TestSharedRevocation: a key that is revoked in one package is refused in all when each is issued again, and it goes
// from all when its time is over, whoever comes first.
func TestSharedRevocation(t *testing.T) {
	f := newFleet(t)
	for _, name := range []string{"a", "b"} {
		f.must("issue", name)
	}
	f.now = f.now.Add(time.Hour)
	f.must("revoke", "a", "pod/a")
	if code, said := f.run("verify", "b"); code == 0 || !strings.Contains(said, "which is revoked") {
		t.Errorf("verify of a package that is behind: %d, %s", code, said)
	}
	f.must("issue", "b")
	f.sync("b")
	if len(f.synced["b"][0].revoked) != 1 {
		t.Error("b does not refuse the key")
	}
	if code, said := f.run("verify", "b"); code != 0 {
		t.Errorf("verify of a package that is up to date: %s", said)
	}
	f.now = f.now.Add(50 * 24 * time.Hour)
	for _, name := range []string{"a", "b", "a"} {
		if said := f.must("issue", name); strings.Contains(said, "stays revoked") {
			t.Errorf("what is over comes back: %s", said)
		}
		f.sync(name)
		if n := len(f.synced[name][len(f.synced[name])-1].revoked); n != 0 {
			t.Errorf("%s still refuses %d keys", name, n)
		}
	}
}

// TestPackageIsBehind: a package that was not issued for a signing period first learns of the authority that signs, and
// renews a day later.
func TestPackageIsBehind(t *testing.T) {
	f := newFleet(t)
	f.must("issue", "a")
	f.must("issue", "b")
	f.now = f.now.Add(80 * 24 * time.Hour)
	f.must("issue", "b")
	f.sync("b")
	f.now = f.now.Add(11 * 24 * time.Hour)
	f.must("issue", "a") // on day 91 the second authority signs, the third is published
	if code, said := f.run("verify", "b"); code != 0 || !strings.Contains(said, "in time") {
		t.Errorf("the third is far away, and verify says %s", said)
	}
	f.now = f.now.Add(30 * 24 * time.Hour)
	f.must("issue", "a")
	f.now = f.now.Add(61 * 24 * time.Hour)
	f.must("issue", "a") // the third signs
	if code, said := f.run("verify", "b"); code == 0 || !strings.Contains(said, "which is Active") {
		t.Errorf("the third signs, and verify says %s", said)
	}
}

// TestLateBundleHoldsBack: as long as its own bundles do not know the authority that signs, a package keeps the leaves
// that work.
func TestLateBundleHoldsBack(t *testing.T) {
	f := newFleet(t)
	f.must("issue", "b")
	f.sync("b")
	late := f.synced["b"][0]
	saved := f.folder + "/late.yaml"
	copyFile(t, f.folder+"/b/mtls/prod/bundle.yaml", saved)
	for range 3 { // a rolls twice within the life of b's leaf: somebody replaces the CA
		f.now = f.now.Add(49 * time.Hour)
		f.must("issue", "a")
	}
	f.must("issue", "a", "--replace-ca")
	f.now = f.now.Add(49 * time.Hour)
	f.must("issue", "a")
	if said := f.must("issue", "b"); !strings.Contains(said, "is kept for now") {
		t.Errorf("a leaf of an authority that no bundle of b knows: %s", said)
	}
	f.sync("b")
	for file, leaf := range f.synced["b"][1].leaves {
		if !leaf.Equal(late.leaves[file]) {
			t.Error("b has a leaf that its own pods refuse until they have synced")
		}
	}
	if said := f.must("issue", "b"); !strings.Contains(said, "its authority is being replaced") {
		t.Errorf("the next run: %s", said)
	}
	copyFile(t, saved, f.folder+"/b/mtls/prod/bundle.yaml")
	if code, said := f.run("verify", "b"); code == 0 {
		t.Errorf("an old bundle: %s", said)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
