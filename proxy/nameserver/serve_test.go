package nameserver

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// served is a fixture on sockets, until the test ends.
func served(t *testing.T, change func(*Options)) (*fixture, string) {
	t.Helper()
	f := newFixture(t)
	o := f.o
	o.UDP, o.TCP = sockets(t)
	if change != nil {
		change(&o)
	}
	f.Server = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { f.Serve(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return f, o.TCP.Addr().String()
}

// TestServe: the same answer by UDP and TCP, several on one connection.
func TestServe(t *testing.T) {
	_, at := served(t, nil)
	for _, network := range []string{"udp", "tcp"} {
		c, err := dns.Dial(network, at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		for range 3 {
			q := new(dns.Msg).SetQuestion("web.prod.svc.cluster.local.", dns.TypeA)
			if err := c.WriteMsg(q); err != nil {
				t.Fatal(err)
			}
			answer, err := c.ReadMsg()
			if err != nil || answer.Id != q.Id || said(answer) != "127.64.1.1" {
				t.Fatalf("%s: %v, %v", network, answer, err)
			}
		}
	}
}

// upstream is a real name server, which cuts its answers off by UDP.
func upstream(t *testing.T, answers func(network string, q *dns.Msg) *dns.Msg) netip.AddrPort {
	t.Helper()
	udp, tcp := sockets(t)
	for network, server := range map[string]*dns.Server{"udp": {PacketConn: udp}, "tcp": {Listener: tcp}} {
		server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			if answer := answers(network, q); answer != nil {
				_ = w.WriteMsg(answer)
			}
		})
		go func() { _ = server.ActivateAndServe() }()
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return netip.MustParseAddrPort(tcp.Addr().String())
}

// TestUpstream: what is cut off comes by TCP, and a server that does not serve the name is no answer.
func TestUpstream(t *testing.T) {
	z := testZone()
	good := upstream(t, func(network string, q *dns.Msg) *dns.Msg {
		answer, _ := z.ask(context.Background(), transport{}, q)
		if network == "udp" {
			answer.Answer, answer.Truncated = nil, true
		}
		return answer
	})
	bad := upstream(t, func(_ string, q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeRefused) })
	liar := upstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		other := new(dns.Msg).SetReply(q)
		other.Question = []dns.Question{{Name: "evil.com.", Qtype: dns.TypeA, Qclass: dns.ClassINET}}
		return other
	})
	f, at := served(t, func(o *Options) { o.ask, o.Servers = nil, []netip.AddrPort{bad, liar, good} })
	for name, want := range map[string]string{"web.prod.svc.cluster.local.": "127.64.1.1", "example.com.": "93.184.216.34", "none.example.": "NXDOMAIN"} {
		answer, err := dns.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), at)
		if err != nil || said(answer) != want {
			t.Errorf("%s: %v, %v", name, answer, err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts[Led] != 1 || f.counts[Forwarded] != 2 {
		t.Errorf("counts: %v", f.counts)
	}
}

// TestNoServers: a pod without name servers gets SERVFAIL at once.
func TestNoServers(t *testing.T) {
	f := newFixture(t)
	f.o.Servers = nil
	if got := said(f.query(t, "example.com.", dns.TypeA)); got != "SERVFAIL" || f.counts[Failed] != 1 {
		t.Errorf("%q, %v", got, f.counts)
	}
}

// TestAttackFlood: a process of the pod that asks without end gets as many queries under way as there may be. What
// waits for a name server that does not answer fills nothing, and queries by TCP are still answered.
func TestAttackFlood(t *testing.T) {
	var mu sync.Mutex
	var running, most int
	unlock := make(chan struct{})
	f, at := served(t, func(o *Options) {
		ask := o.ask
		o.ask = func(ctx context.Context, to transport, q *dns.Msg) (*dns.Msg, error) {
			if q.Question[0].Name == "slow.example." {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				select {
				case <-unlock:
				case <-ctx.Done():
				}
				mu.Lock()
				running--
				mu.Unlock()
			}
			return ask(ctx, to, q)
		}
	})
	flood, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	wire, _ := new(dns.Msg).SetQuestion("slow.example.", dns.TypeA).Pack()
	dropped := func() int { f.mu.Lock(); defer f.mu.Unlock(); return f.counts[Dropped] }
	for deadline := time.Now().Add(20 * time.Second); dropped() < 100; {
		if _, err := flood.Write(wire); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d queries were dropped", dropped())
		}
	}
	client := dns.Client{Net: "tcp", Timeout: 10 * time.Second}
	answer, _, err := client.Exchange(new(dns.Msg).SetQuestion("web.prod.svc.cluster.local.", dns.TypeA), at)
	if err != nil || said(answer) != "127.64.1.1" {
		t.Errorf("by TCP, during the flood: %v, %v", answer, err)
	}
	mu.Lock()
	if most > MaxQueries {
		t.Errorf("%d queries were under way", most)
	}
	mu.Unlock()
	close(unlock)
	client.Net = "udp"
	for range 10 { // what is in the socket's queue comes first
		if answer, _, err = client.Exchange(new(dns.Msg).SetQuestion("web.prod.svc.cluster.local.", dns.TypeA), at); err == nil {
			break
		}
	}
	if err != nil || said(answer) != "127.64.1.1" {
		t.Errorf("after the flood: %v, %v", answer, err)
	}
}

// TestAttackConnections: connections beyond the limit wait in the kernel, and those that are silent end.
func TestAttackConnections(t *testing.T) {
	_, at := served(t, nil)
	for range MaxConnections {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	client := dns.Client{Net: "tcp", Timeout: 2 * tcpIdle}
	began := time.Now()
	if answer, _, err := client.Exchange(new(dns.Msg).SetQuestion("web.prod.svc.cluster.local.", dns.TypeA), at); err != nil || said(answer) != "127.64.1.1" {
		t.Errorf("beside silent connections: %v, %v", answer, err)
	}
	if waited := time.Since(began); waited < tcpIdle/2 {
		t.Errorf("one more than %d connections was served after %s", MaxConnections, waited)
	}
	if answer, err := dns.Exchange(new(dns.Msg).SetQuestion("web.prod.svc.cluster.local.", dns.TypeA), at); err != nil || said(answer) != "127.64.1.1" {
		t.Errorf("by UDP: %v, %v", answer, err)
	}
}

// FuzzQuery: whatever a process of the pod asks and a name server answers, there is an answer or none, it can be read,
// and it shows no address for a name of the mesh but a loopback one.
func FuzzQuery(f *testing.F) {
	pack := func(m *dns.Msg) []byte {
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		return wire
	}
	z := testZone()
	for _, name := range []string{"web.prod.svc.cluster.local.", "Short.prod.svc.cluster.local.", "unknown.data.svc.cluster.local.", "theirs.far.svc.cluster.local.", "example.com.", `odd\.name.prod.svc.cluster.local.`} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeHTTPS, dns.TypeANY} {
			q := new(dns.Msg).SetQuestion(name, kind)
			q.SetEdns0(1232, true)
			answer, err := z.ask(context.Background(), transport{}, q)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(pack(q), pack(answer), true)
		}
	}
	f.Add([]byte{0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, []byte{}, false)
	f.Fuzz(func(t *testing.T, query, upstream []byte, udp bool) {
		s := newFixture(t)
		s.hasIPv4 = len(query)%2 == 0
		s.o.ask = func(_ context.Context, _ transport, q *dns.Msg) (*dns.Msg, error) {
			answer := new(dns.Msg)
			if err := answer.Unpack(upstream); err != nil {
				return nil, err
			}
			answer.Response, answer.Question = true, q.Question
			return answer, nil
		}
		wire := s.answer(context.Background(), query, udp)
		if wire == nil {
			return
		}
		answer := new(dns.Msg)
		if err := answer.Unpack(wire); err != nil {
			t.Fatalf("cannot be read: %v", err)
		}
		if udp && len(wire) > upstreamSize {
			t.Fatalf("%d bytes by UDP", len(wire))
		}
		if len(answer.Question) != 1 {
			return
		}
		class := read(s.mesh, answer.Question[0].Name).class
		for _, rr := range append(answer.Answer, answer.Extra...) {
			if addressOf(rr).IsValid() && class == unled && strings.EqualFold(rr.Header().Name, answer.Question[0].Name) {
				t.Fatalf("%s has an address: %s", answer.Question[0].Name, rr)
			}
			if addr := addressOf(rr); addr.IsValid() && class == led && (!addr.Is4() || addr.As4()[0] != 127) {
				t.Fatalf("%s leads to %s", answer.Question[0].Name, addr)
			}
		}
	})
}
