package resolve_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/contract"
	"github.com/meshless-dev/meshless/proxy/proxytest"
	"github.com/meshless-dev/meshless/proxy/resolve"
)

// zone is a DNS server on loopback. Records are in the syntax of a zone file.
type zone struct {
	mu       sync.Mutex
	records  map[string][]dns.RR // by name and type
	rcode    map[string]int      // by name
	truncate bool                // UDP answers are cut off
	silent   bool
	delay    time.Duration
	queries  atomic.Int64
	addr     netip.AddrPort
}

func startZone(t *testing.T, records ...string) *zone {
	t.Helper()
	z := &zone{records: map[string][]dns.RR{}, rcode: map[string]int{}}
	for _, r := range records {
		z.add(t, r)
	}
	var tcp net.Listener
	var udp net.PacketConn
	for range 20 { // one port number for both
		var err error
		if tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if udp, err = net.ListenPacket("udp", tcp.Addr().String()); err == nil {
			break
		}
		tcp.Close()
	}
	z.addr = netip.MustParseAddrPort(tcp.Addr().String())
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: z}, {Listener: tcp, Handler: z}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return z
}

func (z *zone) add(t *testing.T, record string) {
	t.Helper()
	rr, err := dns.NewRR(record)
	if err != nil {
		t.Fatal(err)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	key := strings.ToLower(rr.Header().Name) + dns.TypeToString[rr.Header().Rrtype]
	z.records[key] = append(z.records[key], rr)
}

// behave changes how the server answers.
func (z *zone) behave(change func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	change()
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.queries.Add(1)
	z.mu.Lock()
	defer z.mu.Unlock()
	time.Sleep(z.delay)
	if z.silent {
		return
	}
	name := strings.ToLower(q.Question[0].Name)
	m := new(dns.Msg).SetReply(q)
	m.Answer = z.records[name+dns.TypeToString[q.Question[0].Qtype]]
	if _, isUDP := w.RemoteAddr().(*net.UDPAddr); isUDP && z.truncate {
		m.Answer, m.Truncated = nil, true
	}
	if m.Rcode = z.rcode[name]; m.Rcode == 0 && len(m.Answer) == 0 && !m.Truncated {
		m.Rcode = dns.RcodeNameError
	}
	_ = w.WriteMsg(m)
}

func pattern(name string) string { return proxytest.ID(name) }

func testMesh(changes ...func(*contract.Mesh)) *contract.Mesh {
	return proxytest.Mesh(append([]func(*contract.Mesh){func(m *contract.Mesh) {
		m.Services = []contract.Service{
			{Host: "web.prod.svc.cluster.local", ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Identities: []string{pattern("web"), pattern("web-canary")},
				PlaintextPorts: contract.PortsOf(81), PlaintextTargetPorts: contract.PortsOf(8081)},
			{Host: "canary.prod.svc.cluster.local", Identities: []string{pattern("web-canary")}},
			{Host: "db.prod.svc.cluster.local", Identities: []string{pattern("db")}, PlaintextTargetPorts: contract.PortsOf(8081)},
		}
	}}, changes...)...)
}

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
		"8.8.8.8.in-addr.arpa. 5 IN PTR db.prod.svc.cluster.local.",
		"11.1.1.10.in-addr.arpa. 5 IN PTR alias.db.prod.svc.cluster.local.", "10-1-1-11.db.prod.svc.cluster.local. 5 IN A 10.1.1.11",
	)
	z.behave(func() {
		z.rcode["10.1.1.10.in-addr.arpa."] = dns.RcodeServerFailure
		z.rcode["12.1.1.10.in-addr.arpa."] = dns.RcodeRefused
	})
	r := resolve.New(resolve.Options{Servers: []netip.AddrPort{z.addr}, Timeout: time.Second})
	mesh := testMesh(func(m *contract.Mesh) {
		m.Outbound.MeshCIDRs = []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16"), netip.MustParsePrefix("203.0.113.0/24")}
	})
	web := []string{pattern("web"), pattern("web-canary")}
	const webHost, dbHost = "web.prod.svc.cluster.local", "db.prod.svc.cluster.local"
	cases := []struct {
		name, dst string
		want      resolve.Destination
	}{
		{"static clusterIP", "10.96.0.1:80", resolve.Destination{Kind: resolve.Mesh, Host: webHost, Identities: web}},
		{"static clusterIP, IPv4 in IPv6", "[::ffff:10.96.0.1]:80", resolve.Destination{Kind: resolve.Mesh, Host: webHost, Identities: web}},
		{"port that opted out at the clusterIP", "10.96.0.1:81", resolve.Destination{Kind: resolve.Plaintext, Host: webHost}},
		{"target port means nothing at the clusterIP", "10.96.0.1:8081", resolve.Destination{Kind: resolve.Mesh, Host: webHost, Identities: web}},
		{"metrics port means nothing at the clusterIP", "10.96.0.1:15020", resolve.Destination{Kind: resolve.Mesh, Host: webHost, Identities: web}},
		{"endpoint", "10.1.1.1:8080", resolve.Destination{Kind: resolve.Mesh, Host: webHost, Identities: web}},
		{"target port that opted out at the endpoint", "10.1.1.1:8081", resolve.Destination{Kind: resolve.Plaintext, Host: webHost}},
		{"the proxy's metrics at the endpoint", "10.1.1.1:15020", resolve.Destination{Kind: resolve.Plaintext, Host: webHost}},
		{"Service port means nothing at the endpoint", "10.1.1.1:81", resolve.Destination{Kind: resolve.Mesh, Host: webHost, Identities: web}},
		{"two Services: intersection", "10.1.1.2:80", resolve.Destination{Kind: resolve.Mesh, Host: "canary.prod.svc.cluster.local," + webHost, Identities: web[1:]}},
		{"two Services: one keeps it encrypted", "10.1.1.2:8081", resolve.Destination{Kind: resolve.Mesh, Host: "canary.prod.svc.cluster.local," + webHost, Identities: web[1:]}},
		{"two Services: nobody may answer", "10.1.1.3:80", resolve.Destination{Kind: resolve.Refused, Host: dbHost + "," + webHost}},
		{"two Services: both opted out", "10.1.1.3:8081", resolve.Destination{Kind: resolve.Plaintext, Host: dbHost + "," + webHost}},
		{"name resolves elsewhere", "10.1.1.4:80", resolve.Destination{Kind: resolve.Refused, Host: webHost}},
		{"name does not resolve", "10.1.1.5:80", resolve.Destination{Kind: resolve.Refused, Host: webHost}},
		{"name resolves by another name only", "10.1.1.11:80", resolve.Destination{Kind: resolve.Refused, Host: dbHost}},
		{"name outside the cluster", "10.1.1.6:80", resolve.Destination{Kind: resolve.Unknown}},
		{"Service outside the mesh", "10.1.1.7:80", resolve.Destination{Kind: resolve.Unknown}},
		{"no name", "10.1.1.8:80", resolve.Destination{Kind: resolve.Unknown}},
		{"clusterIP by DNS", "10.96.0.9:5432", resolve.Destination{Kind: resolve.Mesh, Host: dbHost, Identities: []string{pattern("db")}}},
		{"unique local IPv6", "[fd00::1]:5432", resolve.Destination{Kind: resolve.Mesh, Host: dbHost, Identities: []string{pattern("db")}}},
		{"shared address space", "100.64.1.1:5432", resolve.Destination{Kind: resolve.Mesh, Host: dbHost, Identities: []string{pattern("db")}}},
		{"public address is not asked for", "8.8.8.8:53", resolve.Destination{Kind: resolve.Unknown}},
		{"SERVFAIL", "10.1.1.10:80", resolve.Destination{Kind: resolve.Refused}},
		{"REFUSED", "10.1.1.12:80", resolve.Destination{Kind: resolve.Refused}},
		{"mesh network without a name", "10.200.1.1:80", resolve.Destination{Kind: resolve.Mesh, AnyMember: true}},
		{"public mesh network", "203.0.113.9:80", resolve.Destination{Kind: resolve.Mesh, AnyMember: true}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, _ := r.Resolve(t.Context(), mesh, netip.MustParseAddrPort(c.dst))
			if (got.Reason != "") != (got.Kind == resolve.Refused) {
				t.Errorf("reason %q of %s", got.Reason, got.Kind)
			}
			got.Reason = ""
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s: -want +got\n%s", c.dst, diff)
			}
		})
	}
}

func TestAccepts(t *testing.T) {
	web, db := spiffeid.RequireFromString(pattern("web")), spiffeid.RequireFromString(pattern("db"))
	listed := resolve.Destination{Kind: resolve.Mesh, Identities: []string{pattern("web")}}
	if !listed.Accepts(web) || listed.Accepts(db) {
		t.Error("a listed destination accepts the wrong one")
	}
	if !(resolve.Destination{Kind: resolve.Mesh, AnyMember: true}).Accepts(db) {
		t.Error("a mesh network does not accept a member")
	}
	for _, kind := range []resolve.Kind{resolve.Refused, resolve.Unknown, resolve.Plaintext} {
		if (resolve.Destination{Kind: kind, Identities: []string{pattern("web")}, AnyMember: true}).Accepts(web) {
			t.Errorf("a destination that is %s accepts an identity", kind)
		}
	}
}

func TestTruncatedAnswerGoesToTCP(t *testing.T) {
	z := startZone(t, ptr1, a1)
	z.behave(func() { z.truncate = true })
	r := resolve.New(resolve.Options{Servers: []netip.AddrPort{z.addr}})
	if d, _ := r.Resolve(t.Context(), testMesh(), netip.MustParseAddrPort("10.1.1.1:80")); d.Kind != resolve.Mesh {
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
	r := resolve.New(resolve.Options{Servers: []netip.AddrPort{dead.addr, failing.addr, good.addr}, Timeout: 100 * time.Millisecond})
	if d, _ := r.Resolve(t.Context(), testMesh(), dst); d.Kind != resolve.Mesh {
		t.Errorf("got %+v", d)
	}
	for name, servers := range map[string][]netip.AddrPort{"none": nil, "dead": {dead.addr}} {
		r := resolve.New(resolve.Options{Servers: servers, Timeout: 50 * time.Millisecond})
		if d, _ := r.Resolve(t.Context(), testMesh(), dst); d.Kind != resolve.Refused || !strings.HasPrefix(d.Reason, "dns: ") {
			t.Errorf("%s: got %+v, want Refused: no DNS must not mean no encryption", name, d)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	slow := resolve.New(resolve.Options{Servers: []netip.AddrPort{dead.addr}, Timeout: 100 * time.Millisecond})
	if d, _ := slow.Resolve(ctx, testMesh(), dst); d.Kind != resolve.Refused {
		t.Errorf("caller that gave up: got %+v", d)
	}
}

func TestCache(t *testing.T) {
	z := startZone(t, ptr1, a1)
	now := time.Now()
	var clock atomic.Pointer[time.Time]
	clock.Store(&now)
	r := resolve.New(resolve.Options{Servers: []netip.AddrPort{z.addr}, Now: func() time.Time { return *clock.Load() }})
	kind := func(dst string, mesh *contract.Mesh) resolve.Kind {
		d, _ := r.Resolve(t.Context(), mesh, netip.MustParseAddrPort(dst))
		return d.Kind
	}
	queries := func(want int64, what string) {
		t.Helper()
		if got := z.queries.Swap(0); got != want {
			t.Errorf("%s: %d queries, want %d", what, got, want)
		}
	}
	after := func(d time.Duration) { now = now.Add(d); later := now; clock.Store(&later) }
	kind("10.1.1.1:80", testMesh())
	queries(2, "first")
	kind("10.1.1.1:81", testMesh())
	queries(0, "within the TTL")
	empty := proxytest.Mesh()
	if got := kind("10.1.1.1:80", empty); got != resolve.Unknown {
		t.Errorf("under another map: %s: decisions, not facts, were kept", got)
	}
	if got := kind("10.1.1.1:80", testMesh()); got != resolve.Mesh {
		t.Errorf("under the first map again: %s", got)
	}
	queries(0, "another map")
	after(6 * time.Second)
	kind("10.1.1.1:80", testMesh())
	queries(2, "after the TTL")
	kind("10.1.1.2:80", testMesh())
	kind("10.1.1.2:80", testMesh())
	queries(1, "a name that is not there")
	after(1100 * time.Millisecond)
	kind("10.1.1.2:80", testMesh())
	queries(1, "a name that is still not there, without a SOA")
}

// TestOneQueryInFlight: many connections to one address ask once.
func TestOneQueryInFlight(t *testing.T) {
	z := startZone(t, ptr1, a1)
	z.behave(func() { z.delay = 50 * time.Millisecond })
	r := resolve.New(resolve.Options{Servers: []netip.AddrPort{z.addr}})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if d, _ := r.Resolve(t.Context(), testMesh(), netip.MustParseAddrPort("10.1.1.1:80")); d.Kind != resolve.Mesh {
				t.Errorf("got %+v", d)
			}
		})
	}
	wg.Wait()
	if got := z.queries.Load(); got != 2 {
		t.Errorf("%d queries, want 2", got)
	}
}
