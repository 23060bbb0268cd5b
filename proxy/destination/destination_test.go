package destination_test

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/test/proxytest"
)

func pattern(name string) string { return proxytest.ID(name) }

func testMesh(changes ...func(*meshmap.Map)) *meshmap.Map {
	return proxytest.Mesh(append([]func(*meshmap.Map){func(m *meshmap.Map) {
		m.Package, m.Namespace = "", "" // no members Service: what is in the mesh are its Services
		m.Services = []meshmap.Service{
			{Host: "web.prod.svc.cluster.local", ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Identities: []string{pattern("web"), pattern("web-canary")},
				PlaintextPorts: netset.PortsOf(81), PlaintextTargetPorts: netset.PortsOf(8081)},
			{Host: "canary.prod.svc.cluster.local", Identities: []string{pattern("web-canary")}},
			{Host: "db.prod.svc.cluster.local", Identities: []string{pattern("db")}, PlaintextTargetPorts: netset.PortsOf(8081)},
		}
	}}, changes...)...)
}

// emptyMesh has no Service.
func emptyMesh() *meshmap.Map { return testMesh(func(m *meshmap.Map) { m.Services = nil }) }

const (
	ptr1 = "1.1.1.10.in-addr.arpa. 5 IN PTR 10-1-1-1.web.prod.svc.cluster.local."
	a1   = "10-1-1-1.web.prod.svc.cluster.local. 5 IN A 10.1.1.1"
)

func TestResolve(t *testing.T) {
	z := startZone(t, ptr1, a1,
		"2.1.1.10.in-addr.arpa. 5 IN PTR 10-1-1-2.WEB.prod.svc.cluster.local.", "10-1-1-2.web.prod.svc.cluster.local. 5 IN A 10.1.1.2",
		"2.1.1.10.in-addr.arpa. 5 IN PTR 10-1-1-2.canary.prod.svc.cluster.local.", "10-1-1-2.canary.prod.svc.cluster.local. 5 IN A 10.1.1.2",
		"3.1.1.10.in-addr.arpa. 5 IN PTR 10-1-1-3.web.prod.svc.cluster.local.", "10-1-1-3.web.prod.svc.cluster.local. 5 IN A 10.1.1.3",
		"3.1.1.10.in-addr.arpa. 5 IN PTR 10-1-1-3.db.prod.svc.cluster.local.", "10-1-1-3.db.prod.svc.cluster.local. 5 IN A 10.1.1.3",
		"4.1.1.10.in-addr.arpa. 5 IN PTR 10-1-1-4.web.prod.svc.cluster.local.", "10-1-1-4.web.prod.svc.cluster.local. 5 IN A 10.1.1.99",
		"5.1.1.10.in-addr.arpa. 5 IN PTR 10-1-1-5.web.prod.svc.cluster.local.",
		"6.1.1.10.in-addr.arpa. 5 IN PTR other.example.", "7.1.1.10.in-addr.arpa. 5 IN PTR foreign.elsewhere.svc.cluster.local.",
		"foreign.elsewhere.svc.cluster.local. 5 IN A 10.1.1.7",
		"1.0.96.10.in-addr.arpa. 5 IN PTR web.prod.svc.cluster.local.", "web.prod.svc.cluster.local. 5 IN A 10.96.0.1",
		"9.0.96.10.in-addr.arpa. 5 IN PTR db.prod.svc.cluster.local.", "db.prod.svc.cluster.local. 5 IN A 10.96.0.9",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. 5 IN PTR db.prod.svc.cluster.local.", "db.prod.svc.cluster.local. 5 IN AAAA fd00::1",
		"1.1.64.100.in-addr.arpa. 5 IN PTR 100-64-1-1.db.prod.svc.cluster.local.", "100-64-1-1.db.prod.svc.cluster.local. 5 IN A 100.64.1.1",
		"8.8.8.8.in-addr.arpa. 5 IN PTR db.prod.svc.cluster.local.", "db.prod.svc.cluster.local. 5 IN A 8.8.8.8",
		"13.1.1.10.in-addr.arpa. 5 IN PTR db-0.db.prod.svc.cluster.local.", "db-0.db.prod.svc.cluster.local. 5 IN A 10.1.1.13",
		"11.1.1.10.in-addr.arpa. 5 IN PTR alias.db.prod.svc.cluster.local.", "10-1-1-11.db.prod.svc.cluster.local. 5 IN A 10.1.1.11",
	)
	z.behave(func() {
		z.rcode["10.1.1.10.in-addr.arpa."] = dns.RcodeServerFailure
		z.rcode["12.1.1.10.in-addr.arpa."] = dns.RcodeRefused
	})
	r := destination.New(destination.Options{Servers: []netip.AddrPort{z.addr}, Timeout: time.Second})
	mesh := testMesh(func(m *meshmap.Map) {
		m.Outbound.MeshCIDRs = []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16"), netip.MustParsePrefix("203.0.113.0/24")}
	})
	web := []string{pattern("web"), pattern("web-canary")}
	const webHost, dbHost = "web.prod.svc.cluster.local", "db.prod.svc.cluster.local"
	cases := []struct {
		name, dst string
		want      answer
	}{
		{"static clusterIP", "10.96.0.1:80", answer{Kind: destination.Mesh, Host: webHost, Identities: web}},
		{"static clusterIP, IPv4 in IPv6", "[::ffff:10.96.0.1]:80", answer{Kind: destination.Mesh, Host: webHost, Identities: web}},
		{"port that opted out at the clusterIP", "10.96.0.1:81", answer{Kind: destination.Plaintext, Host: webHost}},
		{"target port means nothing at the clusterIP", "10.96.0.1:8081", answer{Kind: destination.Mesh, Host: webHost, Identities: web}},
		{"metrics port means nothing at the clusterIP", "10.96.0.1:15020", answer{Kind: destination.Mesh, Host: webHost, Identities: web}},
		{"endpoint", "10.1.1.1:8080", answer{Kind: destination.Mesh, Host: webHost, Identities: web}},
		{"pod of a StatefulSet", "10.1.1.13:5432", answer{Kind: destination.Mesh, Host: dbHost, Identities: []string{pattern("db")}}},
		{"target port that opted out at the endpoint", "10.1.1.1:8081", answer{Kind: destination.Plaintext, Host: webHost}},
		{"the proxy's metrics at the endpoint", "10.1.1.1:15020", answer{Kind: destination.Plaintext, Host: webHost}},
		{"Service port means nothing at the endpoint", "10.1.1.1:81", answer{Kind: destination.Mesh, Host: webHost, Identities: web}},
		{"two Services: intersection", "10.1.1.2:80", answer{Kind: destination.Mesh, Host: "canary.prod.svc.cluster.local," + webHost, Identities: web[1:]}},
		{"two Services: one keeps it encrypted", "10.1.1.2:8081", answer{Kind: destination.Mesh, Host: "canary.prod.svc.cluster.local," + webHost, Identities: web[1:]}},
		{"two Services: nobody is listed for both", "10.1.1.3:80", answer{Kind: destination.Mesh, Host: dbHost + "," + webHost}},
		{"two Services: both opted out", "10.1.1.3:8081", answer{Kind: destination.Plaintext, Host: dbHost + "," + webHost}},
		{"name resolves elsewhere", "10.1.1.4:80", answer{Kind: destination.Refused, Host: webHost}},
		{"name does not resolve", "10.1.1.5:80", answer{Kind: destination.Refused, Host: webHost}},
		{"name resolves by another name only", "10.1.1.11:80", answer{Kind: destination.Refused, Host: dbHost}},
		{"name outside the cluster", "10.1.1.6:80", answer{Kind: destination.Unknown}},
		{"Service outside the mesh", "10.1.1.7:80", answer{Kind: destination.Unknown}},
		{"no name", "10.1.1.8:80", answer{Kind: destination.Unknown}},
		{"clusterIP by DNS", "10.96.0.9:5432", answer{Kind: destination.Mesh, Host: dbHost, Identities: []string{pattern("db")}}},
		{"unique local IPv6", "[fd00::1]:5432", answer{Kind: destination.Mesh, Host: dbHost, Identities: []string{pattern("db")}}},
		{"shared address space", "100.64.1.1:5432", answer{Kind: destination.Mesh, Host: dbHost, Identities: []string{pattern("db")}}},
		{"public address with a name of the mesh", "8.8.8.8:53", answer{Kind: destination.Mesh, Host: dbHost, Identities: []string{pattern("db")}}},
		{"public address", "9.9.9.9:53", answer{Kind: destination.Unknown}},
		{"SERVFAIL", "10.1.1.10:80", answer{Kind: destination.Refused}},
		{"REFUSED", "10.1.1.12:80", answer{Kind: destination.Refused}},
		{"mesh network without a name", "10.200.1.1:80", answer{Kind: destination.Mesh, AnyMember: true}},
		{"public mesh network", "203.0.113.9:80", answer{Kind: destination.Mesh, AnyMember: true}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, _ := r.Resolve(t.Context(), mesh, netip.MustParseAddrPort(c.dst))
			if (got.Reason != "") != (got.Kind == destination.Refused) {
				t.Errorf("reason %q of %s", got.Reason, got.Kind)
			}
			got.Reason = ""
			if c.want.Kind == destination.Mesh {
				c.want.TrustDomain = proxytest.TrustDomain
			}
			if diff := cmp.Diff(c.want, answerOf(got)); diff != "" {
				t.Errorf("%s: -want +got\n%s", c.dst, diff)
			}
		})
	}
}

func TestAccepts(t *testing.T) {
	const host, td = "web.prod.svc.cluster.local", proxytest.TrustDomain
	id := spiffeid.RequireFromString
	web, db, other := id(pattern("web")), id(pattern("db")), id("spiffe://cluster.local/ns/other/deployment/web")
	foreign := id("spiffe://other.example/ns/prod/deployment/web")
	service := destination.Claim{Host: host, Namespace: "prod", Identities: []string{pattern("web")}}
	named := destination.Claim{Host: host, Namespace: "prod", Open: true}
	pod, anybody := destination.Claim{Namespace: "prod", Open: true}, destination.Claim{Open: true}
	beside := destination.Claim{Host: "db.prod.svc.cluster.local", Namespace: "prod", Identities: []string{pattern("db")}}
	ours, both := []string{"web.prod", host}, []string{host, "db.prod.svc.cluster.local"}
	for _, c := range []struct {
		what   string
		claims []destination.Claim
		id     spiffeid.ID
		names  []string
		want   destination.Acceptance
	}{
		{"listed", []destination.Claim{service}, web, nil, destination.ByMap},
		{"not listed", []destination.Claim{service}, db, nil, ""},
		{"not listed, and named", []destination.Claim{service}, db, ours, destination.ByLeaf},
		{"named by a shorter name", []destination.Claim{service}, db, []string{"web.prod"}, ""},
		{"named by a wildcard", []destination.Claim{service}, db, []string{"*.prod.svc.cluster.local"}, ""},
		{"another Service is named", []destination.Claim{service}, db, []string{"db.prod.svc.cluster.local"}, ""},
		{"named, of another namespace", []destination.Claim{service}, other, ours, ""},
		{"named, of another trust domain", []destination.Claim{service}, foreign, ours, ""},
		{"a namespace that begins alike", []destination.Claim{named}, id("spiffe://cluster.local/ns/prod-2/deployment/web"), ours, ""},
		{"of the namespace", []destination.Claim{named}, db, nil, destination.ByNamespace},
		{"of the namespace, and named", []destination.Claim{named}, db, ours, destination.ByLeaf},
		{"of another namespace", []destination.Claim{named}, other, ours, ""},
		{"a pod", []destination.Claim{pod}, db, nil, destination.ByNamespace},
		{"a pod of another namespace", []destination.Claim{pod}, other, nil, ""},
		{"a pod behind a Service", []destination.Claim{pod, service}, web, nil, destination.ByMap},
		{"another pod behind a Service", []destination.Claim{pod, service}, db, nil, ""},
		{"two Services, listed for one", []destination.Claim{service, beside}, web, nil, ""},
		{"two Services, named for the other", []destination.Claim{service, beside}, web, both, destination.ByLeaf},
		{"two Services, named for both", []destination.Claim{pod, service, beside}, id(pattern("new")), both, destination.ByLeaf},
		{"anybody", []destination.Claim{anybody}, other, nil, destination.ByTrustDomain},
		{"anybody, of another trust domain", []destination.Claim{anybody}, foreign, nil, ""},
		{"nobody", []destination.Claim{anybody}, spiffeid.ID{}, nil, ""},
	} {
		for _, kind := range []destination.Kind{destination.Mesh, destination.TryMesh} {
			if got := (destination.Destination{Kind: kind, Claims: c.claims, TrustDomain: td}).Accepts(c.id, c.names); got != c.want {
				t.Errorf("%s: accepted by %q, want %q", c.what, got, c.want)
			}
		}
	}
	for _, kind := range []destination.Kind{destination.Refused, destination.Unknown, destination.Plaintext} {
		if (destination.Destination{Kind: kind, Claims: []destination.Claim{anybody}, TrustDomain: td}).Accepts(web, ours) != "" {
			t.Errorf("a destination that is %s accepts an identity", kind)
		}
	}
}

func TestTruncatedAnswerGoesToTCP(t *testing.T) {
	z := startZone(t, ptr1, a1)
	z.behave(func() { z.truncate = true })
	r := destination.New(destination.Options{Servers: []netip.AddrPort{z.addr}})
	if d, _ := r.Resolve(t.Context(), testMesh(), netip.MustParseAddrPort("10.1.1.1:80")); d.Kind != destination.Mesh {
		t.Errorf("got %+v", d)
	}
}

func TestServersInTurn(t *testing.T) {
	dead, failing, good := startZone(t), startZone(t), startZone(t, ptr1, a1)
	dead.behave(func() { dead.silent = true })
	failing.behave(func() {
		failing.rcode["1.1.1.10.in-addr.arpa."] = dns.RcodeServerFailure
		failing.rcode["10-1-1-1.web.prod.svc.cluster.local."] = dns.RcodeServerFailure
	})
	dst := netip.MustParseAddrPort("10.1.1.1:80")
	r := destination.New(destination.Options{Servers: []netip.AddrPort{dead.addr, failing.addr, good.addr}, Timeout: 100 * time.Millisecond})
	if d, _ := r.Resolve(t.Context(), testMesh(), dst); d.Kind != destination.Mesh {
		t.Errorf("got %+v", d)
	}
	for name, servers := range map[string][]netip.AddrPort{"none": nil, "dead": {dead.addr}} {
		r := destination.New(destination.Options{Servers: servers, Timeout: 50 * time.Millisecond})
		if d, _ := r.Resolve(t.Context(), testMesh(), dst); d.Kind != destination.Refused || !strings.HasPrefix(d.Reason, "dns: ") {
			t.Errorf("%s: got %+v, want Refused: no DNS must not mean no encryption", name, d)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	slow := destination.New(destination.Options{Servers: []netip.AddrPort{dead.addr}, Timeout: 100 * time.Millisecond})
	if d, _ := slow.Resolve(ctx, testMesh(), dst); d.Kind != destination.Refused {
		t.Errorf("caller that gave up: got %+v", d)
	}
}

func TestCache(t *testing.T) {
	a := newAsker(t, startZone(t, ptr1, a1, "7.1.1.10.in-addr.arpa. 60 IN PTR foreign.elsewhere.svc.cluster.local.", "foreign.elsewhere.svc.cluster.local. 60 IN A 10.1.1.7"))
	mesh, empty := testMesh(), emptyMesh()
	a.ask(mesh, "10.1.1.1:80")
	a.queries(2, "first")
	a.ask(mesh, "10.1.1.1:81")
	a.queries(0, "within the TTL")
	a.want(empty, "10.1.1.1:80", destination.Unknown) // decisions are not kept, but lookups are
	a.want(mesh, "10.1.1.1:80", destination.Mesh, "web", "web-canary")
	a.queries(0, "another map, and the first again")
	a.after(5001 * time.Millisecond)
	a.ask(mesh, "10.1.1.1:80")
	a.queries(2, "after the TTL")

	a.ask(empty, "10.1.1.2:80")
	a.ask(empty, "10.1.1.2:80")
	a.queries(1, "a name that is not there")
	a.after(1001 * time.Millisecond)
	a.ask(empty, "10.1.1.2:80")
	a.queries(1, "a name that is still not there, without a SOA")

	a.want(mesh, "10.1.1.7:80", destination.Unknown)
	a.after(4999 * time.Millisecond)
	a.want(mesh, "10.1.1.7:80", destination.Unknown)
	a.queries(2, "a Service outside of the mesh")
	a.after(2 * time.Millisecond)
	a.zone.remove("7.1.1.10.in-addr.arpa. PTR")
	a.zone.add(t, "7.1.1.10.in-addr.arpa. 60 IN PTR db.prod.svc.cluster.local.")
	a.zone.add(t, "db.prod.svc.cluster.local. 60 IN A 10.1.1.7")
	// the TTL says 60 s, but an address is never foreign for more than 5 s
	a.want(mesh, "10.1.1.7:80", destination.Mesh, "db")
	a.queries(2, "the address went to a Service of the mesh")
	a.after(59 * time.Second)
	a.ask(mesh, "10.1.1.7:80")
	a.queries(0, "a Service of the mesh within its TTL")
	for result, want := range map[string]int{"found": 4, "not_found": 2, "error": 0} {
		if got := a.count(result); got != want {
			t.Errorf("%d lookups counted as %s, want %d", got, result, want)
		}
	}
}

// TestNegativeTTL: a denial holds as long as its SOA says, but 5 s at most.
func TestNegativeTTL(t *testing.T) {
	for _, c := range []struct{ soa, holds time.Duration }{{3 * time.Second, 3 * time.Second}, {time.Hour, 5 * time.Second}, {0, time.Second}} {
		z := startZone(t)
		z.behave(func() { z.soa = uint32(c.soa / time.Second) })
		a := newAsker(t, z)
		empty := emptyMesh()
		a.ask(empty, "10.1.1.2:80")
		a.after(c.holds - time.Millisecond)
		a.ask(empty, "10.1.1.2:80")
		a.queries(1, c.soa.String()+" before the end")
		a.after(time.Millisecond)
		a.ask(empty, "10.1.1.2:80")
		a.queries(1, c.soa.String()+" after the end")
	}
}

// TestOneQueryInFlight: many connections to one address ask once.
func TestOneQueryInFlight(t *testing.T) {
	z := startZone(t, ptr1, a1)
	z.behave(func() { z.delay = 50 * time.Millisecond })
	r := destination.New(destination.Options{Servers: []netip.AddrPort{z.addr}})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if d, _ := r.Resolve(t.Context(), testMesh(), netip.MustParseAddrPort("10.1.1.1:80")); d.Kind != destination.Mesh {
				t.Errorf("got %+v", d)
			}
		})
	}
	wg.Wait()
	if got := z.queries.Load(); got != 2 {
		t.Errorf("%d queries, want 2", got)
	}
}
