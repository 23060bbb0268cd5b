package destination_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/test/proxytest"
)

const members = "meshless-members-test"

// wholeMesh is the map of namespace prod of a package that has workloads in data and kube-system too.
func wholeMesh(changes ...func(*meshmap.Map)) *meshmap.Map {
	return proxytest.Mesh(append([]func(*meshmap.Map){func(m *meshmap.Map) {
		m.Namespaces, m.Outside = []string{"data", "default", "kube-system"}, []string{"old.prod", "old.data"}
		m.Services = []meshmap.Service{
			{Host: "web.prod.svc.cluster.local", Identities: []string{pattern("web")}, PlaintextPorts: netset.PortsOf(81), PlaintextTargetPorts: netset.PortsOf(8081)},
			{Host: "db.data.svc.cluster.local", Identities: []string{"spiffe://cluster.local/ns/data/statefulset/db"}, PlaintextTargetPorts: netset.PortsOf(9187)},
		}
	}}, changes...)...)
}

// pod are the records of a pod behind Services, <name>.<namespace> each.
func pod(addr string, services ...string) (records []string) {
	a := netip.MustParseAddr(addr)
	for _, s := range services {
		name := strings.NewReplacer(".", "-", ":", "-").Replace(addr) + "." + s + ".svc.cluster.local."
		records = append(records, arpa(a)+" 5 IN PTR "+name, name+" 5 IN "+kindOf(a)+" "+addr)
	}
	return records
}

// service are the records of a clusterIP.
func service(addr, name string) []string {
	a := netip.MustParseAddr(addr)
	host := name + ".svc.cluster.local."
	return []string{arpa(a) + " 5 IN PTR " + host, host + " 5 IN " + kindOf(a) + " " + addr}
}

func arpa(a netip.Addr) string {
	name, err := dns.ReverseAddr(a.String())
	if err != nil {
		panic(err)
	}
	return name
}

func kindOf(a netip.Addr) string {
	if a.Is6() {
		return "AAAA"
	}
	return "A"
}

// who tells by what each of several identities is accepted.
func who(d destination.Destination) string {
	var texts []string
	for _, c := range []struct {
		id    string
		names []string
	}{
		{pattern("web"), nil}, {pattern("new"), []string{"web.prod.svc.cluster.local", "x.prod.svc.cluster.local"}}, {pattern("new"), nil},
		{"spiffe://cluster.local/ns/data/statefulset/db", nil}, {"spiffe://cluster.local/ns/data/deployment/new", []string{"x.data.svc.cluster.local"}},
		{"spiffe://cluster.local/ns/evil/deployment/thief", []string{"web.prod.svc.cluster.local", "x.prod.svc.cluster.local", "x.data.svc.cluster.local", "x.evil.svc.cluster.local"}},
	} {
		by := d.Accepts(spiffeid.RequireFromString(c.id), c.names)
		if by == "" {
			by = "-"
		}
		texts = append(texts, string(by))
	}
	return strings.Join(texts, " ")
}

// flatten joins records.
func flatten(lists ...[]string) (all []string) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// TestWho: what each name of an address leads to, and who may answer there.
func TestWho(t *testing.T) {
	const none = "- - - - - -"
	records := flatten(
		pod("10.1.0.1", "web.prod", members+".prod"), pod("10.1.0.2", members+".prod"), pod("10.1.0.3", "meshless-members-zzzzz.prod", "other.prod"),
		pod("10.1.0.4", members+".prod", "old.prod"), pod("10.1.0.5", "old.prod"), pod("10.1.0.6", "meshless-members-abcde.evil"),
		pod("10.1.0.7", members+".prod", members+".data"), pod("10.1.0.8", "db.data", members+".data"), pod("10.1.0.9", "web.prod", "meshless-members-abcde.evil"),
		pod("10.1.0.10", "x.data"), pod("10.1.0.11", "old.data", "x.data"), pod("10.1.0.12", "x.prod", "old.prod"), pod("10.1.0.13", members+".prod", "x.evil"),
		pod("fd00:1::2", members+".prod"), pod("2600:1::2", members+".prod"),
		service("10.96.1.1", "web.prod"), service("10.96.1.2", "x.prod"), service("10.96.1.3", "x.data"), service("10.96.1.4", "x.evil"), service("10.96.1.5", "old.data"),
		service("10.96.1.6", "meshless-members-.prod"), service("10.96.1.7", "coredns.kube-system"),
		service("34.118.224.7", "web.prod"), service("240.0.0.9", "x.evil"), service("198.18.0.9", "x.data"),
		[]string{
			"20.0.1.10.in-addr.arpa. 5 IN PTR 10-1-0-20." + members + ".prod.svc.cluster.local.", // is not confirmed
			"21.0.1.10.in-addr.arpa. 5 IN PTR 10-1-0-21.x.prod.svc.cluster.local.",
			"22.0.1.10.in-addr.arpa. 5 IN PTR 10-1-0-22.x.evil.svc.cluster.local.",
			"23.0.1.10.in-addr.arpa. 5 IN PTR 10-1-0-23.old.prod.svc.cluster.local.",
		})
	cases := []struct {
		what, dst string
		kind      destination.Kind
		who       string // of web, new (named for web and x), new, data's db, data's new, a thief of evil
	}{
		{"a pod behind a Service", "10.1.0.1:80", destination.Mesh, "map leaf - - - -"},
		{"its port that opted out", "10.1.0.1:8081", destination.Plaintext, none},
		{"its metrics", "10.1.0.1:15020", destination.Plaintext, none},
		{"a pod without a Service", "10.1.0.2:80", destination.Mesh, "namespace namespace namespace - - -"},
		{"its metrics", "10.1.0.2:15020", destination.Plaintext, none},
		{"its port of which nothing is known", "10.1.0.2:8081", destination.Mesh, "namespace namespace namespace - - -"},
		{"a pod of another package", "10.1.0.3:80", destination.Mesh, "namespace namespace namespace - - -"},
		{"a pod behind a Service that leads out", "10.1.0.4:80", destination.Mesh, "namespace namespace namespace - - -"},
		{"what leads out", "10.1.0.5:80", destination.Unknown, none},
		{"a pod of another namespace's package", "10.1.0.6:80", destination.TryMesh, "- - - - - namespace"},
		{"a pod of two namespaces", "10.1.0.7:80", destination.Refused, none},
		{"a pod of another namespace", "10.1.0.8:80", destination.Mesh, "- - - map - -"},
		{"its port that opted out", "10.1.0.8:9187", destination.Plaintext, none},
		{"a PTR that names another namespace", "10.1.0.9:80", destination.Mesh, "map leaf - - - -"},
		{"a Service of the package", "10.1.0.10:80", destination.Mesh, "- - - namespace leaf -"},
		{"it, where it leads out by another name", "10.1.0.11:80", destination.TryMesh, "- - - namespace leaf -"},
		{"an unknown Service, where it leads out by another name", "10.1.0.12:80", destination.Unknown, none},
		{"a pod of the mesh behind a foreign Service", "10.1.0.13:80", destination.Mesh, "namespace namespace namespace - - -"},
		{"a pod by IPv6", "[fd00:1::2]:80", destination.Mesh, "namespace namespace namespace - - -"},
		{"a pod with a global address", "[2600:1::2]:80", destination.Mesh, "namespace namespace namespace - - -"},
		{"a clusterIP", "10.96.1.1:80", destination.Mesh, "map leaf - - - -"},
		{"its port that opted out", "10.96.1.1:81", destination.Plaintext, none},
		{"a Service of our namespace that nobody knows", "10.96.1.2:80", destination.TryMesh, "namespace leaf namespace - - -"},
		{"a Service of the package", "10.96.1.3:80", destination.Mesh, "- - - namespace leaf -"},
		{"a Service of a foreign namespace", "10.96.1.4:80", destination.Unknown, none},
		{"what leads out of another namespace", "10.96.1.5:80", destination.Unknown, none},
		{"no members Service, although it begins like one", "10.96.1.6:80", destination.TryMesh, "namespace namespace namespace - - -"},
		{"the API server, though workloads are in its namespace", "10.96.0.250:443", destination.Unknown, none},
		{"a Service of a namespace of the package that the map does not list", "10.96.1.7:53", destination.Mesh, none},
		{"a Service in GKE's range", "34.118.224.7:80", destination.Mesh, "map leaf - - - -"},
		{"a foreign Service in 240.0.0.0/4", "240.0.0.9:80", destination.Unknown, none},
		{"a Service in 198.18.0.0/15", "198.18.0.9:80", destination.Mesh, "- - - namespace leaf -"},
		{"a members name that is not confirmed", "10.1.0.20:80", destination.Refused, none},
		{"an unknown name of our namespace that is not confirmed", "10.1.0.21:80", destination.Refused, none},
		{"a foreign name that is not confirmed", "10.1.0.22:80", destination.Unknown, none},
		{"a name that leads out and is not confirmed", "10.1.0.23:80", destination.Unknown, none},
		{"an address of the Internet", "9.9.9.9:443", destination.Unknown, none},
		{"an address of a node", "169.254.1.1:80", destination.Unknown, none},
		{"no name, among the Services", "10.97.1.1:80", destination.TryMesh, "trust_domain trust_domain trust_domain trust_domain trust_domain trust_domain"},
		{"no name", "10.2.1.1:80", destination.Unknown, none},
	}
	z := startZone(t, records...)
	a := newAsker(t, z)
	for _, c := range cases {
		if d := a.ask(wholeMesh(), c.dst); d.Kind != c.kind || who(d) != c.who {
			t.Errorf("%s: %s is %+v for %s, want %s for %s", c.what, c.dst, d, who(d), c.kind, c.who)
		}
	}
}

// TestAlias: packages that share an authority say which of their Services are in the mesh; nobody is asked where none
// is shared.
func TestAlias(t *testing.T) {
	shared := func(m *meshmap.Map) { m.SharedCA = true }
	start := func(t *testing.T) (*zone, *asker) {
		z := startZone(t, flatten(service("10.96.1.4", "x.evil"), service("10.96.1.5", "plain.evil"), service("10.96.1.2", "x.prod"), service("10.96.1.3", "x.data"))...)
		for _, name := range []string{"x.evil 10.96.1.4", "x.prod 10.96.1.2"} {
			host, addr, _ := strings.Cut(name, " ")
			z.add(t, "meshless-alias-"+host+".svc.cluster.local. 5 IN A "+addr)
		}
		return z, newAsker(t, z)
	}
	_, a := start(t)
	for dst, want := range map[string]string{
		"10.96.1.4:80": "mesh - - - - - leaf", "10.96.1.5:80": "unknown - - - - - -", "10.96.1.2:80": "mesh namespace leaf namespace - - -", "10.96.1.3:80": "mesh - - - namespace leaf -",
	} {
		if d := a.ask(wholeMesh(shared), dst); string(d.Kind)+" "+who(d) != want {
			t.Errorf("%s is %s for %s, want %s", dst, d.Kind, who(d), want)
		}
	}
	for _, record := range flatten(pod("10.1.0.6", "meshless-members-abcde.evil"), pod("10.1.0.9", "web.prod", "meshless-members-abcde.evil")) {
		a.zone.add(t, record)
	}
	if d := a.want(wholeMesh(shared), "10.1.0.6:80", destination.Mesh); who(d) != "- - - - - namespace" {
		t.Errorf("a pod of another package is for %s", who(d))
	}
	a.want(wholeMesh(shared), "10.1.0.9:80", destination.Mesh, "web") // as the map says, whoever lists the address elsewhere
	a.queries(4*2+3+1+2+3, "names, and aliases but for the package's own namespaces; of nobody's, the own members Service")
	a.ask(wholeMesh(shared), "10.96.1.4:81")
	a.queries(0, "a known alias")

	z, a := start(t)
	a.want(wholeMesh(), "10.96.1.4:80", destination.Unknown)
	a.queries(3, "without a shared authority")
	z.behave(func() { z.rcode["meshless-alias-x.evil.svc.cluster.local."] = dns.RcodeServerFailure })
	if d := a.want(wholeMesh(shared), "10.96.1.4:80", destination.Refused); !strings.Contains(d.Reason, "whether x.evil is in the mesh") {
		t.Errorf("the reason is %q", d.Reason)
	}
	z.behave(func() { clear(z.rcode) })
	a.after(time.Second)
	a.want(wholeMesh(shared), "10.96.1.4:80", destination.Mesh)
	z.remove("meshless-alias-x.evil.svc.cluster.local. A")
	a.after(time.Minute)
	a.want(wholeMesh(shared), "10.96.1.4:80", destination.Unknown) // the package was removed

	_, a = start(t) // a name that an answer does not belong to says nothing
	a.zone.behave(func() {
		a.zone.lie = func(q dns.Question) []dns.RR {
			if strings.HasPrefix(q.Name, "meshless-alias-") {
				rr, _ := dns.NewRR("elsewhere.example. 5 IN A 10.96.1.5")
				return []dns.RR{rr}
			}
			return a.zone.records[strings.ToLower(q.Name)+dns.TypeToString[q.Qtype]]
		}
	})
	a.want(wholeMesh(shared), "10.96.1.5:80", destination.Unknown)
}

// TestUnnamedPods: a DNS that names only endpoints with host names (CoreDNS 1.12.0) answers for the endpoint's own
// name, and for the members Services of the other namespaces.
func TestUnnamedPods(t *testing.T) {
	own := netip.MustParseAddr("10.1.9.9")
	z := startZone(t,
		"10-1-0-1."+members+".prod.svc.cluster.local. 5 IN A 10.1.0.1", members+".data.svc.cluster.local. 5 IN A 10.1.0.2",
		"fd00-1--2."+members+".prod.svc.cluster.local. 5 IN AAAA fd00:1::2", "fd00-1--0."+members+".prod.svc.cluster.local. 5 IN AAAA fd00:1::")
	a := newAskerWith(t, z, own, netip.MustParseAddr("fd00:9::9"))
	const ours, anybody = "namespace namespace namespace - - -", "trust_domain trust_domain trust_domain trust_domain trust_domain trust_domain"
	for _, c := range []struct {
		dst  string
		kind destination.Kind
		who  string
	}{
		{"10.1.0.1:80", destination.Mesh, ours}, {"[fd00:1::2]:80", destination.Mesh, ours}, {"[fd00:1::]:80", destination.Mesh, ours},
		{"10.1.0.2:80", destination.Mesh, "- - - namespace namespace -"}, {"10.1.0.3:80", destination.TryMesh, anybody},
		{"9.9.9.9:443", destination.Unknown, "- - - - - -"}, // no cluster's
	} {
		if d := a.ask(wholeMesh(), c.dst); d.Kind != c.kind || who(d) != c.who {
			t.Errorf("%s is %+v for %s, want %s for %s", c.dst, d, who(d), c.kind, c.who)
		}
	}
	for _, record := range pod(own.String(), members+".prod") { // DNS names pods, and this one was not there yet
		z.add(t, record)
	}
	a.after(5 * time.Second)
	a.want(wholeMesh(), "10.8.0.3:80", destination.Unknown)
	a.want(wholeMesh(), "10.1.0.3:80", destination.TryMesh) // near the pod: another that is not there yet
	z.behave(func() { z.rcode[arpa(own)] = dns.RcodeServerFailure })
	a.after(5 * time.Second)
	a.want(wholeMesh(), "10.8.0.3:80", destination.TryMesh) // an attack on the self-probe gains no plaintext
}

// TestUnnamedPodsElsewhere: such a DNS names a pod of a StatefulSet of another package by its headless Service alone,
// which has no alias: mutual TLS first, with an identity of that namespace.
func TestUnnamedPodsElsewhere(t *testing.T) {
	own := netip.MustParseAddr("10.1.9.9")
	z := startZone(t, flatten(pod("10.2.0.1", "x.evil"), service("10.96.1.5", "plain.evil"))...)
	a := newAskerWith(t, z, own)
	shared := wholeMesh(func(m *meshmap.Map) { m.SharedCA = true })
	if d := a.want(shared, "10.2.0.1:80", destination.TryMesh); who(d) != "- - - - - leaf" {
		t.Errorf("it is for %s", who(d))
	}
	a.want(shared, "10.96.1.5:80", destination.Unknown) // a clusterIP would have an alias
	a.want(wholeMesh(), "10.2.0.1:80", destination.Unknown)
	for _, record := range pod(own.String(), members+".prod") {
		z.add(t, record)
	}
	a.after(6 * time.Second)
	a.want(shared, "10.2.0.1:80", destination.Unknown)
}

// TestMembersStay: a pod that was of the mesh stays so when DNS does not name it any more.
func TestMembersStay(t *testing.T) {
	z := startZone(t, pod("10.1.0.2", members+".prod")...)
	a := newAsker(t, z)
	a.want(wholeMesh(), "10.1.0.2:80", destination.Mesh)
	z.remove("2.0.1.10.in-addr.arpa. PTR", "10-1-0-2."+members+".prod.svc.cluster.local. A")
	a.after(9 * time.Minute)
	if d := a.want(wholeMesh(), "10.1.0.2:80", destination.Mesh); who(d) != "namespace namespace namespace - - -" {
		t.Errorf("it is for %s", who(d))
	}
	z.behave(func() { z.silent = true })
	a.after(time.Minute - time.Second)
	a.want(wholeMesh(), "10.1.0.2:80", destination.Mesh)
}

// TestHugeMembers: thousands of pods do not fit into one answer; what there is of it counts, and nothing is refused by
// that.
func TestHugeMembers(t *testing.T) {
	z := startZone(t)
	for i := range 5000 {
		z.add(t, fmt.Sprintf("%s.data.svc.cluster.local. 5 IN A 10.50.%d.%d", members, i/250, i%250))
	}
	z.behave(func() { z.limit = 4000 })
	a := newAsker(t, z)
	a.want(wholeMesh(), "10.50.0.1:80", destination.Mesh)
	a.want(wholeMesh(), "10.60.0.1:80", destination.Unknown)
}

// TestRemoteDoesNotWait: DNS that is slow or dead costs a connection to the Internet a moment, once.
func TestRemoteDoesNotWait(t *testing.T) {
	z := startZone(t)
	z.behave(func() { z.silent = true })
	a := newAsker(t, z)
	begun := time.Now()
	a.want(wholeMesh(), "9.9.9.9:443", destination.Unknown)
	if took := time.Since(begun); took < 250*time.Millisecond || took > 900*time.Millisecond {
		t.Errorf("the first took %v, want 300 ms", took)
	}
	a.want(wholeMesh(), "34.118.224.1:443", destination.Unknown) // nothing was learnt
	near := wholeMesh(func(m *meshmap.Map) {
		m.Outbound.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("34.118.224.0/20")}
	})
	a.want(near, "34.118.224.1:443", destination.Refused)
	z.behave(func() { z.silent = false })
	z.add(t, probeHost+" 5 IN A 34.118.224.1")
	a.after(time.Minute)
	a.want(wholeMesh(), "9.9.9.9:443", destination.Unknown)
	z.behave(func() { z.silent = true })
	a.want(wholeMesh(), "34.118.225.1:443", destination.Refused) // the network is known by now
}

// TestFloodOfRemoteAddresses: what the app dials on the Internet is bounded in queries at once, and nobody waits in a
// queue.
func TestFloodOfRemoteAddresses(t *testing.T) {
	z := startZone(t)
	z.behave(func() { z.mute = ".in-addr.arpa." })
	a := newAsker(t, z)
	a.ask(wholeMesh(), "9.9.9.9:443")
	a.zone.queries.Store(0)
	done := make(chan destination.Kind)
	const flood = 300
	for i := range flood {
		go func() {
			d, _ := a.Resolve(t.Context(), wholeMesh(), netip.MustParseAddrPort(fmt.Sprintf("9.1.%d.%d:443", i/250, i%250)))
			done <- d.Kind
		}()
	}
	begun := time.Now()
	for range flood {
		if kind := <-done; kind != destination.Unknown {
			t.Fatalf("an address of the Internet is %s", kind)
		}
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("they took %v", took)
	}
	if got := a.zone.queries.Load(); got > 64+10 {
		t.Errorf("%d queries for %d addresses", got, flood)
	}
}
