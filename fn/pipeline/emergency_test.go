package pipeline_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
)

func revokedKeys(t testing.TB, items []*yaml.RNode) []string {
	t.Helper()
	mesh, err := meshmap.Parse([]byte(find(t, items, "ConfigMap", "meshless-mesh").GetDataMap()[api.MeshFile]))
	if err != nil {
		t.Fatal(err)
	}
	return mesh.RevokedKeys
}

func said(t testing.TB, r *report.Report) string {
	t.Helper()
	var out strings.Builder
	if err := r.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func secretText(t testing.TB, items []*yaml.RNode, name string) string {
	t.Helper()
	return find(t, items, "Secret", name).MustString()
}

// exchangeItem puts the item of that kind and name from one list into another.
func exchangeItem(t testing.TB, items, from []*yaml.RNode, kind, name string) []*yaml.RNode {
	t.Helper()
	out := slices.Clone(items)
	out[slices.Index(out, find(t, items, kind, name))] = find(t, from, kind, name)
	return out
}

// TestRevoke: one key is refused everywhere, its workload gets another, and nobody else notices.
func TestRevoke(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	before, _ := w.mustRun(t, parse(t, twoDeployments), config)
	w.now = w.now.Add(time.Hour)
	w.revoke = []string{"Deployment/web"}
	after, _ := w.mustRun(t, before, config)
	w.revoke = nil
	old := decodeLeaf(t, find(t, before, "Secret", "meshless-deployment-web"))
	if got := revokedKeys(t, after); len(got) != 1 || got[0] != svid.KeyDigest(old) {
		t.Errorf("the mesh map revokes %q", got)
	}
	if svid.KeyDigest(decodeLeaf(t, find(t, after, "Secret", "meshless-deployment-web"))) == svid.KeyDigest(old) {
		t.Error("web keeps the key that is revoked")
	}
	if secretText(t, after, "meshless-deployment-api") != secretText(t, before, "meshless-deployment-api") || bundleOf(t, after) != bundleOf(t, before) {
		t.Error("a revocation touches others")
	}
	again, _ := w.mustRun(t, after, config)
	if text(t, again) != text(t, after) {
		t.Error("a render after a revocation is not quiet")
	}
	w.built = true
	built, _ := w.mustRun(t, withoutKind(after, v1alpha1.KindCertificateAuthority), config)
	if got := revokedKeys(t, built); len(got) != 1 {
		t.Errorf("kustomize build, which does not see the CertificateAuthority, revokes %q", got)
	}
	w.built = false

	t.Run("a revert of the Secret alone", func(t *testing.T) {
		out, _ := w.mustRun(t, exchangeItem(t, after, before, "Secret", "meshless-deployment-web"), config)
		if svid.KeyDigest(decodeLeaf(t, find(t, out, "Secret", "meshless-deployment-web"))) == svid.KeyDigest(old) {
			t.Error("the revoked key is in use again")
		}
	})
	t.Run("a revert of the CertificateAuthority alone", func(t *testing.T) {
		out, r := w.mustRun(t, exchangeItem(t, after, before, v1alpha1.KindCertificateAuthority, config.Name), config)
		if got := revokedKeys(t, out); len(got) != 1 || !strings.Contains(said(t, r), "it stays revoked") {
			t.Errorf("the mesh map revokes %q, and the report says %s", got, said(t, r))
		}
	})
	t.Run("a revert of the bundle alone", func(t *testing.T) {
		out, _ := w.mustRun(t, exchangeItem(t, after, before, "ConfigMap", "meshless-bundle"), config)
		if got := revokedKeys(t, out); len(got) != 1 {
			t.Errorf("the mesh map revokes %q", got)
		}
	})
	t.Run("when no certificate of the key is valid", func(t *testing.T) {
		late := *w
		late.now = old.NotAfter.Add(25 * time.Hour)
		out, _ := late.mustRun(t, after, config)
		if got := revokedKeys(t, out); len(got) != 0 {
			t.Errorf("the mesh map still revokes %q", got)
		}
		if text := find(t, out, "ConfigMap", "meshless-bundle").MustString() + find(t, out, v1alpha1.KindCertificateAuthority, config.Name).MustString(); strings.Contains(text, "revoked") {
			t.Errorf("a trace is left:\n%s", text)
		}
	})
	t.Run("names that mean nothing", func(t *testing.T) {
		wrong := *w
		for _, name := range []string{"web", "deployment/wbe", "stage/deployment/web", strings.Repeat("0", 63)} {
			wrong.revoke = []string{name}
			if out, r := wrong.run(after, config); out != nil || !strings.Contains(said(t, r), "is no workload of the mesh here") {
				t.Errorf("revoke %q: %s", name, said(t, r))
			}
		}
	})
}

func TestRenewOnDemand(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	before, _ := w.mustRun(t, parse(t, twoDeployments), config)
	w.renew = []string{"prod/deployment/web"}
	after, _ := w.mustRun(t, before, config)
	if secretText(t, after, "meshless-deployment-web") == secretText(t, before, "meshless-deployment-web") {
		t.Error("web has no new leaf")
	}
	if secretText(t, after, "meshless-deployment-api") != secretText(t, before, "meshless-deployment-api") {
		t.Error("api has a new leaf")
	}
}

// accepted tells whether every leaf of one render verifies under the bundle of another: a pod that has synced and one
// that has not.
func accepted(t testing.TB, leaves, bundle []*yaml.RNode, now time.Time) bool {
	t.Helper()
	trust, err := svid.NewBundle(spiffeid.RequireTrustDomainFromString("cluster.local"), authorities(t, bundleOf(t, bundle)), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"meshless-deployment-web", "meshless-deployment-api"} {
		if _, err := trust.VerifyLeaf(decodeLeaf(t, find(t, leaves, "Secret", name)), now); err != nil {
			return false
		}
	}
	return true
}

// TestReplaceCA: every authority is replaced, whether its keys leaked or are lost, and no two pods ever refuse each
// other, though one synced a day later.
func TestReplaceCA(t *testing.T) {
	for name, lost := range map[string]bool{"leaked": false, "lost": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			config := w.config(t, plainConfig)
			first, _ := w.mustRun(t, parse(t, twoDeployments), config)
			input := first
			if lost {
				input = withoutKind(first, v1alpha1.KindCertificateAuthority)
				if _, r := w.run(input, config); !strings.Contains(said(t, r), "meshless issue --replace-ca") {
					t.Errorf("the way out is not named: %s", said(t, r))
				}
			}
			w.now = w.now.Add(48 * time.Hour)
			w.replaceCA = true
			published, _ := w.mustRun(t, input, config)
			if _, r := w.run(published, config); !strings.Contains(said(t, r), "being replaced already") {
				t.Errorf("replaced twice: %s", said(t, r))
			}
			w.replaceCA = false
			early := *w
			early.now = w.now.Add(47 * time.Hour)
			if quiet, _ := early.mustRun(t, published, config); text(t, quiet) != text(t, published) {
				t.Error("a render before the day is over changes something")
			}
			w.now = w.now.Add(49 * time.Hour)
			switched, _ := w.mustRun(t, published, config)
			for _, pair := range [][2][]*yaml.RNode{{first, published}, {published, first}, {switched, published}, {published, switched}} {
				if !accepted(t, pair[0], pair[1], w.now) {
					t.Error("neighbours in time refuse each other")
				}
			}
			w.now = w.now.Add(49 * time.Hour)
			dropped, _ := w.mustRun(t, switched, config)
			if accepted(t, first, dropped, w.now) {
				t.Error("a leaf of the old authorities is still accepted")
			}
			if !accepted(t, switched, dropped, w.now) || !accepted(t, dropped, switched, w.now) {
				t.Error("the last step cuts somebody off")
			}
			for _, old := range authorities(t, bundleOf(t, first)) {
				if slices.ContainsFunc(authorities(t, bundleOf(t, dropped)), old.Equal) {
					t.Errorf("%s is still trusted", old.Subject.CommonName)
				}
			}
			if again, _ := w.mustRun(t, dropped, config); text(t, again) != text(t, dropped) {
				t.Error("the end is not quiet")
			}
		})
	}
}

// TestNothingIsSignedWhileTheCAIsLost: what cannot be issued is said, with the time from when it can.
func TestNothingIsSignedWhileTheCAIsLost(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	first, _ := w.mustRun(t, parse(t, twoDeployments), config)
	w.replaceCA = true
	published, _ := w.mustRun(t, withoutKind(first, v1alpha1.KindCertificateAuthority), config)
	w.replaceCA = false
	if out, r := w.run(append(slices.Clone(published), parse(t, oneMore)...), config); out != nil || !strings.Contains(said(t, r), "but no authority signs before") {
		t.Errorf("a new workload while nobody can sign: %s", said(t, r))
	}
}
