package destination_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// The Services of the attack: db, whose address DNS knows, and thief, whose manifest claims that address and plaintext
// at it.
const (
	dbHost    = "db.prod.svc.cluster.local"
	thiefHost = "thief.prod.svc.cluster.local"
	friend    = "friend.prod.svc.cluster.local" // shares an identity with thief, and takes plaintext at the same port
	dbAddr    = "10.96.0.9"
	public    = "5.5.5.9"
)

func claimedMesh() *meshmap.Map {
	return testMesh(func(m *meshmap.Map) {
		claims := []netip.Addr{netip.MustParseAddr(dbAddr), netip.MustParseAddr(public), netip.MustParseAddr("fd00::9")}
		m.Services = []meshmap.Service{
			{Host: dbHost, Identities: []string{pattern("db")}, PlaintextPorts: netset.PortsOf(9090)},
			{Host: thiefHost, ClusterIPs: claims, Identities: []string{pattern("thief")}, PlaintextPorts: netset.PortsOf(5432, 9090),
				PlaintextTargetPorts: netset.PortsOf(5432)},
			{Host: friend, Identities: []string{pattern("friend"), pattern("thief")}, PlaintextPorts: netset.PortsOf(5432)},
		}
	})
}

func named(service string) destination.Name {
	return destination.Name{Service: service, Confirmed: true}
}

// TestClaimedClusterIP: a manifest that claims an address decides who may answer there, but plaintext only where DNS
// agrees.
func TestClaimedClusterIP(t *testing.T) {
	thief := []string{pattern("thief")}
	lookup := func(names ...destination.Name) destination.Lookup { return destination.Lookup{Names: names} }
	endpoint := destination.Name{Service: "thief.prod", Endpoint: true, Confirmed: true}
	nobody := answer{Kind: destination.Mesh, Host: dbHost + "," + thiefHost} // but whose certificate names both
	meshAsThief := answer{Kind: destination.Mesh, Host: thiefHost, Identities: thief}
	refused := func(host string) answer {
		return answer{Kind: destination.Refused, Host: host}
	}
	cases := []struct {
		name, dst string
		lookup    destination.Lookup
		want      answer
		reason    string
	}{
		{"another Service's address", dbAddr + ":80", lookup(named("db.prod")), nobody, ""},
		{"another Service's address, plaintext at one", dbAddr + ":5432", lookup(named("db.prod")), nobody, ""},
		{"another Service's address, plaintext at both", dbAddr + ":9090", lookup(named("db.prod")), refused(dbHost + "," + thiefHost), "no such name"},
		{"another Service's address, an identity is shared", dbAddr + ":80", lookup(named("friend.prod")),
			answer{Kind: destination.Mesh, Host: friend + "," + thiefHost, Identities: thief}, ""},
		{"another Service agrees, but the name is its own", dbAddr + ":5432", lookup(named("friend.prod")), refused(friend + "," + thiefHost), "no such name"},
		{"both names", dbAddr + ":5432", lookup(named("friend.prod"), named("thief.prod")), answer{Kind: destination.Plaintext, Host: friend + "," + thiefHost}, ""},
		{"a Service outside the mesh", dbAddr + ":80", lookup(named("web.elsewhere")), meshAsThief, ""},
		{"a Service outside the mesh, plaintext", dbAddr + ":5432", lookup(named("web.elsewhere")), refused(thiefHost), "no such name"},
		{"no name", dbAddr + ":80", lookup(), meshAsThief, ""},
		{"no name, plaintext", dbAddr + ":5432", lookup(), refused(thiefHost), "no such name"},
		{"no answer", dbAddr + ":80", destination.Lookup{Err: errors.New("SERVFAIL")}, meshAsThief, ""},
		{"no answer, plaintext", dbAddr + ":5432", destination.Lookup{Err: errors.New("SERVFAIL")}, refused(thiefHost), "SERVFAIL"},
		{"a name that is not confirmed", dbAddr + ":80", lookup(destination.Name{Service: "db.prod"}), refused(dbHost), "does not resolve"},
		{"its own name that is not confirmed, plaintext", dbAddr + ":5432", lookup(destination.Name{Service: "thief.prod"}), refused(thiefHost), "does not resolve"},
		{"its own name", dbAddr + ":80", lookup(named("thief.prod")), meshAsThief, ""},
		{"its own name, plaintext", dbAddr + ":5432", lookup(named("thief.prod")), answer{Kind: destination.Plaintext, Host: thiefHost}, ""},
		{"its own endpoint, plaintext as both", dbAddr + ":5432", lookup(endpoint), answer{Kind: destination.Plaintext, Host: thiefHost}, ""},
		{"its own endpoint, plaintext as clusterIP alone", dbAddr + ":9090", lookup(endpoint), meshAsThief, ""},
		{"public address", public + ":80", lookup(), meshAsThief, ""},
		{"public address, plaintext", public + ":5432", lookup(), refused(thiefHost), "no such name"},
		{"IPv6, plaintext", "[fd00::9]:5432", lookup(), refused(thiefHost), "no such name"},
	}
	m := destination.NewMap(claimedMesh())
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := m.Decide(netip.MustParseAddrPort(c.dst), c.lookup)
			if !strings.Contains(got.Reason, c.reason) || (got.Reason == "") != (c.reason == "") {
				t.Errorf("reason is %q, want one with %q", got.Reason, c.reason)
			}
			got.Reason = ""
			if c.want.Kind == destination.Mesh {
				c.want.TrustDomain = proxytest.TrustDomain
			}
			if diff := cmp.Diff(c.want, answerOf(got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestClaimAsksDNS is the attack from end to end: the claim of a private address is held against DNS, and asked for
// once.
func TestClaimAsksDNS(t *testing.T) {
	z := startZone(t, "9.0.96.10.in-addr.arpa. 5 IN PTR db.prod.svc.cluster.local.", "db.prod.svc.cluster.local. 5 IN A 10.96.0.9")
	r := destination.New(destination.Options{Servers: []netip.AddrPort{z.addr}, Timeout: time.Second})
	mesh := claimedMesh()
	for _, port := range []string{":80", ":5432", ":9090"} {
		d, _ := r.Resolve(t.Context(), mesh, netip.MustParseAddrPort(dbAddr+port))
		if d.Kind != destination.Refused && (d.Kind != destination.Mesh || d.Accepts(proxytestID("thief"), nil) != "" || d.Accepts(proxytestID("db"), nil) != "") {
			t.Errorf("port %s of an address that somebody else claims: %+v", port, d)
		}
	}
	if got := z.queries.Swap(0); got != 2 {
		t.Errorf("%d queries, want 2: what DNS said about claimed addresses are kept as well", got)
	}
	if d, _ := r.Resolve(t.Context(), mesh, netip.MustParseAddrPort(public+":80")); d.Kind != destination.Mesh || z.queries.Load() != 2 {
		t.Errorf("public address: %+v after %d queries, want 2: the network of Services, and its name", d, z.queries.Load())
	}
}

// TestClaimDoesNotWaitForDNS: where a claim leads to mutual TLS anyway, a silent DNS costs a second at most, and those
// who come later nothing.
func TestClaimDoesNotWaitForDNS(t *testing.T) {
	z := startZone(t)
	z.behave(func() { z.silent = true })
	r := destination.New(destination.Options{Servers: []netip.AddrPort{z.addr}, Timeout: 2 * time.Second})
	mesh := claimedMesh()
	ask := func(port string) (destination.Destination, time.Duration) {
		begun := time.Now()
		d, _ := r.Resolve(t.Context(), mesh, netip.MustParseAddrPort(dbAddr+port))
		return d, time.Since(begun)
	}
	if d, took := ask(":80"); d.Kind != destination.Mesh || took < 900*time.Millisecond || took > 1900*time.Millisecond {
		t.Errorf("first: %s after %v, want mesh after 1s", d.Kind, took)
	}
	if d, took := ask(":80"); d.Kind != destination.Mesh || took > 700*time.Millisecond {
		t.Errorf("second: %s after %v, want mesh at once", d.Kind, took)
	}
	if d, took := ask(":5432"); d.Kind != destination.Refused || !strings.Contains(d.Reason, "query") || took < time.Second {
		t.Errorf("plaintext: %s (%s) after %v, want it refused when DNS has failed", d.Kind, d.Reason, took)
	}
}
