package meshdiff

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/graph"
	"github.com/meshless-dev/meshless/fn/statediff"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// trusting is a side whose namespaces trust authorities.
func trusting(authorities map[string][]string) *Side {
	s := Nothing()
	for namespace, names := range authorities {
		s.maps[namespace] = &meshmap.Map{}
		var bundle statediff.Bundle
		for _, name := range names {
			bundle.Authorities = append(bundle.Authorities, &x509.Certificate{Raw: []byte(name), Subject: pkix.Name{CommonName: name}})
		}
		s.state.Bundles[namespace] = bundle
	}
	return s
}

// about are the lines of an area.
func about(a area, base, head *Side) (lines []string) {
	for _, c := range Compare(base, head, now) {
		if c.area == a {
			lines = append(lines, string(c.Mark)+" "+c.Text)
		}
	}
	return lines
}

func TestTrust(t *testing.T) {
	const one, two = `authority "one" (SHA-256 7692c3ad3540bb80)`, `authority "two" (SHA-256 3fc4ccfe745870e2)`
	for name, c := range map[string]struct {
		base, head map[string][]string
		want       []string
	}{
		"a new authority":              {map[string][]string{"a": {"one"}}, map[string][]string{"a": {"one", "two"}}, []string{"! " + two + " is trusted"}},
		"in one namespace":             {map[string][]string{"a": {"one"}, "b": {"one"}}, map[string][]string{"a": {"one", "two"}, "b": {"one"}}, []string{"! " + two + " is trusted in namespace a"}},
		"in a second namespace":        {map[string][]string{"a": {"one"}, "b": {"two"}}, map[string][]string{"a": {"one", "two"}, "b": {"two"}}, []string{"! " + two + " is trusted in namespace a"}},
		"in a new namespace, as in a":  {map[string][]string{"a": {"one"}}, map[string][]string{"a": {"one"}, "b": {"one"}}, nil},
		"in a new namespace, not in a": {map[string][]string{"a": {"one"}}, map[string][]string{"a": {"one"}, "b": {"two"}}, []string{"! " + two + " is trusted in namespace b"}},
		"another authority": {map[string][]string{"a": {"one"}}, map[string][]string{"a": {"two"}},
			[]string{"- " + one + " is trusted no longer", "! " + two + " is trusted"}},
		"a namespace goes": {map[string][]string{"a": {"one"}, "b": {"one"}}, map[string][]string{"a": {"one"}}, nil},
	} {
		if got := about(trust, trusting(c.base), trusting(c.head)); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestFederation(t *testing.T) {
	base, head := trusting(map[string][]string{"a": nil}), trusting(map[string][]string{"a": nil})
	head.maps["a"].Federation = []meshmap.Federation{{TrustDomain: "other.example", Bundle: "one"}}
	want := []string{"! trust domain other.example (SHA-256 of its bundle 7692c3ad3540bb80) is trusted"}
	if got := about(trust, base, head); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestRevokedKeys: a key may go when its time is over; one whose time nobody knows may not.
func TestRevokedKeys(t *testing.T) {
	base := Nothing()
	base.state.Revoked["over"] = v1alpha1.RevokedKey{Key: "over", Until: metav1.NewTime(now.Add(-time.Hour))}
	base.state.Revoked["valid"] = v1alpha1.RevokedKey{Key: "valid", Until: metav1.NewTime(now.Add(time.Hour)), SPIFFEID: "spiffe://td/x"}
	base.state.Revoked["unknown"] = v1alpha1.RevokedKey{Key: "unknown"}
	want := []string{"- key over is revoked no longer", "! key unknown is revoked no longer", "! key valid is revoked no longer, of spiffe://td/x"}
	if got := about(trust, base, Nothing()); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestIdentityAndRedirect(t *testing.T) {
	base, head := Nothing(), Nothing()
	n := graph.Node{ID: "prod/deployment/web", Class: graph.Mesh, Namespace: "prod", Kind: "Deployment", Name: "web", Identity: "spiffe://a/web"}
	base.graph.Nodes = []graph.Node{n}
	n.Identity, n.NoRedirect = "spiffe://b/web", true
	head.graph.Nodes = []graph.Node{n}
	want := []string{"~ deployment prod/web: identity spiffe://a/web → spiffe://b/web", "! deployment prod/web: redirect mode Rules → None"}
	if got := about(workloads, base, head); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
