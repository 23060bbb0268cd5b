package destination_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/destination"
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// federatedMesh knows other.example at 10.7.0.0/16 and a public address, of which two workloads may answer, and
// third.example, of which anybody may. The Service web is claimed to be at 10.8.0.1 as well.
func federatedMesh() *meshmap.Map {
	return testMesh(func(m *meshmap.Map) {
		m.Federation = []meshmap.Federation{
			{TrustDomain: "other.example", Bundle: "x", CIDRs: prefixes("10.7.0.0/16", "5.5.5.7/32"), Identities: []string{"spiffe://other.example/ns/prod/*/web"}},
			{TrustDomain: "third.example", Bundle: "x", CIDRs: prefixes("10.8.0.0/16", "fd77::/16")},
			{TrustDomain: "silent.example", Bundle: "x"},
		}
		m.Services[0].ClusterIPs = append(m.Services[0].ClusterIPs, netip.MustParseAddr("10.8.0.1"))
		m.Outbound.MeshCIDRs = prefixes("10.9.0.0/16")
	})
}

func TestFederationNetworks(t *testing.T) {
	other := answer{Kind: destination.Mesh, TrustDomain: "other.example", Identities: []string{"spiffe://other.example/ns/prod/*/web"}}
	third := answer{Kind: destination.Mesh, TrustDomain: "third.example", AnyMember: true}
	named := func(service string, confirmed bool) destination.Lookup {
		return destination.Lookup{Names: []destination.Name{{Service: service, Endpoint: true, Confirmed: confirmed}}}
	}
	remembered := destination.Lookup{Names: []destination.Name{{Service: "gone.prod", Confirmed: true, Remembered: true}}}
	m := destination.NewMap(federatedMesh())
	for name, c := range map[string]struct {
		dst    string
		lookup destination.Lookup
		want   answer
		reason string
	}{
		"no name":                        {"10.7.0.1:80", destination.Lookup{}, other, ""},
		"IPv4 in IPv6":                   {"[::ffff:10.7.0.1]:80", destination.Lookup{}, other, ""},
		"public":                         {"5.5.5.7:443", destination.Lookup{}, other, ""},
		"public, beside it":              {"5.5.5.8:443", destination.Lookup{}, answer{Kind: destination.Unknown}, ""},
		"any identity":                   {"10.8.0.2:80", destination.Lookup{}, third, ""},
		"IPv6":                           {"[fd77::1]:80", destination.Lookup{}, third, ""},
		"a name outside the mesh":        {"10.7.0.1:80", named("web.elsewhere", true), other, ""},
		"denied by a DNS in doubt":       {"10.7.0.1:80", destination.Lookup{Uncertain: errors.New("no probe")}, other, ""},
		"a Service that left our map":    {"10.7.0.1:80", remembered, other, ""},
		"no answer of DNS":               {"10.7.0.1:80", destination.Lookup{Err: errors.New("SERVFAIL")}, answer{Kind: destination.Refused}, "SERVFAIL"},
		"an endpoint of our Service":     {"10.7.0.1:80", named("web.prod", true), answer{Kind: destination.Refused, Host: "web.prod.svc.cluster.local"}, "other.example"},
		"our Service, plaintext":         {"10.7.0.1:8081", named("web.prod", true), answer{Kind: destination.Refused, Host: "web.prod.svc.cluster.local"}, "other.example"},
		"our Service, not confirmed":     {"10.7.0.1:80", named("web.prod", false), answer{Kind: destination.Refused, Host: "web.prod.svc.cluster.local"}, "does not resolve"},
		"claimed by our manifests":       {"10.8.0.1:80", destination.Lookup{}, answer{Kind: destination.Refused, Host: "web.prod.svc.cluster.local"}, "third.example"},
		"claimed by ours, plaintext":     {"10.8.0.1:81", destination.Lookup{}, answer{Kind: destination.Refused, Host: "web.prod.svc.cluster.local"}, "third.example"},
		"our own metrics port elsewhere": {"10.7.0.1:15020", destination.Lookup{}, other, ""},
		"meshCIDRs":                      {"10.9.0.1:80", destination.Lookup{}, answer{Kind: destination.Mesh, AnyMember: true, TrustDomain: "cluster.local"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := m.Decide(netip.MustParseAddrPort(c.dst), c.lookup)
			if !strings.Contains(got.Reason, c.reason) || (got.Reason == "") != (c.reason == "") {
				t.Errorf("reason is %q, want one with %q", got.Reason, c.reason)
			}
			got.Reason = ""
			if diff := cmp.Diff(c.want, answerOf(got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestFederationAccepts: who may answer in the networks of one trust domain is nobody of another.
func TestFederationAccepts(t *testing.T) {
	m := destination.NewMap(federatedMesh())
	ids := []string{"spiffe://other.example/ns/prod/deployment/web", "spiffe://other.example/ns/prod/deployment/db", "spiffe://third.example/ns/prod/deployment/web",
		"spiffe://cluster.local/ns/prod/deployment/web", "spiffe://other.example.evil/ns/prod/deployment/web"}
	for dst, want := range map[string]string{"10.7.0.1:80": "10000", "10.8.0.2:80": "00100", "10.9.0.1:80": "00010", "10.96.0.1:80": "00010", "192.0.2.1:80": "00000"} {
		d := m.Decide(netip.MustParseAddrPort(dst), destination.Lookup{})
		got := ""
		for _, id := range ids {
			if d.Accepts(spiffeid.RequireFromString(id), nil) != "" {
				got += "1"
			} else {
				got += "0"
			}
		}
		if got != want {
			t.Errorf("%s (%+v) accepts %s, want %s", dst, d, got, want)
		}
	}
}

// TestFederationAsksDNS: from end to end, an address of a federated network that DNS does not know is theirs, and one
// of a pod of ours is refused.
func TestFederationAsksDNS(t *testing.T) {
	z := startZone(t, ptr1, a1, "9.0.7.10.in-addr.arpa. 5 IN PTR 10-7-0-9.web.prod.svc.cluster.local.", "10-7-0-9.web.prod.svc.cluster.local. 5 IN A 10.7.0.9")
	a := newAsker(t, z)
	if d := a.ask(federatedMesh(), "10.7.0.1:80"); d.Kind != destination.Mesh || d.TrustDomain != "other.example" {
		t.Errorf("an address that DNS does not know: %+v", d)
	}
	if d := a.ask(federatedMesh(), "10.7.0.9:80"); d.Kind != destination.Refused || !strings.Contains(d.Reason, "other.example") {
		t.Errorf("an address of a pod of ours: %+v", d)
	}
	z.behave(func() { z.silent = true })
	a.after(time.Hour)
	if d := a.ask(federatedMesh(), "10.7.0.2:80"); d.Kind != destination.Refused {
		t.Errorf("DNS is dead: %+v", d)
	}
}
