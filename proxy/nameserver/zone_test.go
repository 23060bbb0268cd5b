package nameserver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/loopback"
)

// zone is what the pod's name servers know, by name in lower case: addresses, or CNAMEs where the text ends in a dot.
type zone struct {
	mu    sync.Mutex
	names map[string][]string
	down  map[string]bool
	extra []dns.RR // is put into every answer
	asked []string
}

func (z *zone) ask(_ context.Context, _ transport, q *dns.Msg) (*dns.Msg, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	name, kind := q.Question[0].Name, q.Question[0].Qtype
	z.asked = append(z.asked, strings.ToLower(name)+" "+dns.TypeToString[kind])
	if z.down[strings.ToLower(name)] {
		return nil, errors.New("no answer")
	}
	answer := new(dns.Msg).SetReply(q)
	found := false
	for at := name; ; {
		records, ok := z.names[strings.ToLower(at)]
		found = found || ok
		next := ""
		for _, r := range records {
			header := dns.RR_Header{Name: at, Class: dns.ClassINET, Ttl: 300}
			if strings.HasSuffix(r, ".") {
				header.Rrtype, next = dns.TypeCNAME, r
				answer.Answer = append(answer.Answer, &dns.CNAME{Hdr: header, Target: r})
				continue
			}
			addr := netip.MustParseAddr(r)
			switch {
			case addr.Is4() && kind == dns.TypeA:
				header.Rrtype = dns.TypeA
				answer.Answer = append(answer.Answer, &dns.A{Hdr: header, A: addr.AsSlice()})
			case addr.Is6() && kind == dns.TypeAAAA:
				header.Rrtype = dns.TypeAAAA
				answer.Answer = append(answer.Answer, &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()})
			}
		}
		if at = next; at == "" || len(answer.Answer) > 40 {
			break
		}
	}
	if !found {
		answer.Rcode = dns.RcodeNameError
		answer.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "cluster.local.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 5}, Ns: "ns.", Mbox: "m.", Minttl: 5}}
	}
	answer.Answer = append(answer.Answer, z.extra...)
	return answer, nil
}

func ports(t testing.TB, text string) (p netset.Ports) {
	t.Helper()
	if err := p.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return p
}

// testMesh is the map of namespace prod of a package that has data as well.
func testMesh(t testing.TB) *meshmap.Map {
	return &meshmap.Map{ClusterDomain: "cluster.local", TrustDomain: "cluster.local", Namespace: "prod", Namespaces: []string{"data"}, Package: "shop",
		Outside:      []string{"legacy.prod"},
		ServicePorts: map[string]netset.Ports{"web.prod": ports(t, "80,8080"), "db.data": ports(t, "5432"), "legacy.prod": ports(t, "80"), "statsd.prod": nil, "cache.other": ports(t, "6379")}}
}

func testZone() *zone {
	return &zone{down: map[string]bool{}, names: map[string][]string{
		"web.prod.svc.cluster.local.":           {"10.96.0.1", "fd00:96::1"},
		"db.data.svc.cluster.local.":            {"10.0.0.1", "10.0.0.2"},
		"db-0.db.data.svc.cluster.local.":       {"10.0.0.1"},
		"legacy.prod.svc.cluster.local.":        {"10.96.0.2"},
		"statsd.prod.svc.cluster.local.":        {"10.96.0.9"},
		"unknown.prod.svc.cluster.local.":       {"10.96.0.3"},
		"unknown.data.svc.cluster.local.":       {"10.96.0.4"},
		"10-0-0-1.data.pod.cluster.local.":      {"10.0.0.1"},
		"10-0-9-1.far.pod.cluster.local.":       {"10.0.9.1"},
		"cache.other.svc.cluster.local.":        {"10.96.0.5"},
		"free.far.svc.cluster.local.":           {"10.96.0.6"},
		"theirs.far.svc.cluster.local.":         {"10.96.0.7"},
		"kubernetes.default.svc.cluster.local.": {"10.96.0.254"},
		"example.com.":                          {"93.184.216.34", "2606:2800::1"},
		"api.prod.svc.cluster.local.":           {"example.com."}, // an ExternalName
		"short.prod.svc.cluster.local.":         {"web.prod.svc.cluster.local."},
		"db.example.com.":                       {"db.data.svc.cluster.local."},
		"only6.prod.svc.cluster.local.":         {"fd00:96::6"},
		"empty.prod.svc.cluster.local.":         {},
		`odd\.name.prod.svc.cluster.local.`:     {"10.96.0.9"},
	}}
}

// fixture is a server whose loopback addresses are made up.
type fixture struct {
	*Server
	zone    *zone
	mesh    *meshmap.Map
	hasIPv4 bool
	leadErr error

	mu      sync.Mutex
	targets []loopback.Target // that have a loopback address: 127.64.1.1 and so on
	ports   netset.Ports      // that were asked for last
	refused []string
	counts  map[Result]int
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{zone: testZone(), mesh: testMesh(t), hasIPv4: true, counts: map[Result]int{}}
	f.Server = New(Options{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.96.0.10:53")}, Map: func() *meshmap.Map { return f.mesh }, Lead: f.lead,
		HasIPv4: func() bool { return f.hasIPv4 }, Count: f.count, Refuse: f.refuse,
		ask: func(ctx context.Context, at transport, q *dns.Msg) (*dns.Msg, error) { return f.zone.ask(ctx, at, q) }})
	return f
}

func (f *fixture) count(r Result) { f.mu.Lock(); defer f.mu.Unlock(); f.counts[r]++ }

func (f *fixture) refuse(name string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused = append(f.refused, name+" "+err.Error())
}

func (f *fixture) lead(targets []loopback.Target, p netset.Ports) (led []netip.Addr, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ports = p; f.leadErr != nil {
		return nil, f.leadErr
	}
	for _, target := range targets {
		i := slices.Index(f.targets, target)
		if i < 0 {
			i, f.targets = len(f.targets), append(f.targets, target)
		}
		led = append(led, netip.AddrFrom4([4]byte{127, 64, byte(i/200 + 1), byte(i%200 + 1)}))
	}
	return led, nil
}

// query is the answer to a question, by TCP.
func (f *fixture) query(t testing.TB, name string, kind uint16) *dns.Msg {
	t.Helper()
	return f.send(t, new(dns.Msg).SetQuestion(name, kind), false)
}

func (f *fixture) send(t testing.TB, q *dns.Msg, udp bool) *dns.Msg {
	t.Helper()
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer := new(dns.Msg)
	if err := answer.Unpack(f.answer(t.Context(), wire, udp)); err != nil {
		t.Fatalf("%v: %v", q.Question, err)
	}
	return answer
}

// said is the answer in one line: its code, where that is none of success, and its addresses and aliases.
func said(answer *dns.Msg) string {
	var parts []string
	if answer.Rcode != dns.RcodeSuccess {
		parts = append(parts, dns.RcodeToString[answer.Rcode])
	}
	for _, rr := range slices.Concat(answer.Answer, answer.Extra) {
		switch rr := rr.(type) {
		case *dns.CNAME:
			parts = append(parts, rr.Target)
		case *dns.A:
			parts = append(parts, rr.A.String())
		case *dns.AAAA:
			parts = append(parts, "["+netip.AddrFrom16([16]byte(rr.AAAA)).String()+"]")
		case *dns.OPT:
		default:
			parts = append(parts, dns.TypeToString[rr.Header().Rrtype])
		}
	}
	return strings.Join(parts, " ")
}

// sockets are those of a server on a free port.
func sockets(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp4", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return udp, tcp
}

func alias(service, namespace string) string {
	return api.AliasName(service) + "." + namespace + ".svc.cluster.local."
}
