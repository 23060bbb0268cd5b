package destination_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/destination"
)

// zone is a DNS server on loopback. Records are in the syntax of a zone file.
type zone struct {
	mu       sync.Mutex
	records  map[string][]dns.RR         // by name and type
	rcode    map[string]int              // by name
	lie      func(dns.Question) []dns.RR // answers where it is not nil
	truncate bool                        // UDP answers are cut off
	limit    int                         // records of an answer by TCP; those by UDP are cut off where there are more
	silent   bool
	soa      uint32 // TTL of denials; none without
	mute     string // names with this suffix get no answer
	delay    time.Duration
	queries  atomic.Int64
	open     atomic.Int64 // queries that wait for their answers
	most     atomic.Int64 // highest value of open
	addr     netip.AddrPort
}

// probed are the records that every cluster has.
const (
	probeHost = "kubernetes.default.svc.cluster.local."
	probeA    = probeHost + " 5 IN A 10.96.0.250"
	probePTR  = "250.0.96.10.in-addr.arpa. 5 IN PTR " + probeHost
	// probeQueries are those about the probe: A, AAAA, and PTR.
	probeQueries = 3
)

// startZone starts a server that knows the records and the probe.
func startZone(t testing.TB, records ...string) *zone {
	t.Helper()
	return startBareZone(t, append(records, probeA, probePTR)...)
}

func startBareZone(t testing.TB, records ...string) *zone {
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

func (z *zone) add(t testing.TB, record string) {
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

// remove makes records be no more, given by name and type like "web.prod.svc.cluster.local. A".
func (z *zone) remove(keys ...string) {
	z.behave(func() {
		for _, key := range keys {
			delete(z.records, strings.Replace(key, " ", "", 1))
		}
	})
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.queries.Add(1)
	open := z.open.Add(1)
	for most := z.most.Load(); open > most && !z.most.CompareAndSwap(most, open); most = z.most.Load() {
	}
	z.mu.Lock()
	delay := z.delay
	z.mu.Unlock()
	time.Sleep(delay)
	_, isUDP := w.RemoteAddr().(*net.UDPAddr)
	m := z.answer(q, isUDP)
	z.open.Add(-1) // before the client has the answer, and asks the next
	if m != nil {
		_ = w.WriteMsg(m)
	}
}

func (z *zone) answer(q *dns.Msg, isUDP bool) *dns.Msg {
	z.mu.Lock()
	defer z.mu.Unlock()
	name := strings.ToLower(q.Question[0].Name)
	if z.silent || (z.mute != "" && strings.HasSuffix(name, z.mute)) {
		return nil
	}
	m := new(dns.Msg).SetReply(q)
	m.Answer = z.records[name+dns.TypeToString[q.Question[0].Qtype]]
	if z.lie != nil {
		m.Answer = z.lie(q.Question[0])
	}
	if isUDP && z.truncate {
		m.Answer, m.Truncated = nil, true
	}
	m.Compress = z.limit > 0
	if z.limit > 0 && len(m.Answer) > z.limit {
		if m.Answer, m.Truncated = m.Answer[:z.limit], true; isUDP {
			m.Answer = nil
		}
	}
	if m.Rcode = z.rcode[name]; m.Rcode == 0 && len(m.Answer) == 0 && !m.Truncated {
		m.Rcode = dns.RcodeNameError
		if z.soa > 0 {
			m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "arpa.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 86400}, Ns: "ns.", Mbox: "mbox.", Minttl: z.soa}}
		}
	}
	return m
}

// asker is a Resolver of one zone whose clock the test turns.
type asker struct {
	*destination.Resolver
	t    *testing.T
	zone *zone
	mu   sync.Mutex
	now  time.Time
	seen map[string]int // results that were counted
}

func newAsker(t *testing.T, z *zone) *asker {
	t.Helper()
	return newAskerWith(t, z)
}

// newAskerWith is an asker whose pod has addresses of its own.
func newAskerWith(t *testing.T, z *zone, own ...netip.Addr) *asker {
	t.Helper()
	a := &asker{t: t, zone: z, now: time.Now(), seen: map[string]int{}}
	a.Resolver = destination.New(destination.Options{Servers: []netip.AddrPort{z.addr}, Timeout: 2 * time.Second, Now: a.clock, Own: func() []netip.Addr { return own },
		Count: func(result destination.Result) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.seen[string(result)]++
		}})
	return a
}

func (a *asker) clock() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now
}

// after turns the clock on.
func (a *asker) after(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = a.now.Add(d)
}

func (a *asker) count(result string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[result]
}

// ask resolves, and fails the test where it takes longer than a connection may.
func (a *asker) ask(mesh *meshmap.Map, dst string) destination.Destination {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 10*time.Second)
	defer cancel()
	d, _ := a.Resolve(ctx, mesh, netip.MustParseAddrPort(dst))
	if (d.Reason != "") != (d.Kind == destination.Refused) {
		a.t.Errorf("%s: reason %q of %s", dst, d.Reason, d.Kind)
	}
	return d
}

// want checks what dst is: its kind, and where it is in the mesh the names of the only workloads that may answer.
func (a *asker) want(mesh *meshmap.Map, dst string, kind destination.Kind, names ...string) destination.Destination {
	a.t.Helper()
	d := a.ask(mesh, dst)
	var ids []string
	for _, name := range names {
		ids = append(ids, pattern(name))
	}
	if d.Kind != kind || strings.Join(answerOf(d).Identities, " ") != strings.Join(ids, " ") {
		a.t.Errorf("%s is %+v, want %s %v", dst, d, kind, names)
	}
	return d
}

// queries checks how many there were since the last call.
func (a *asker) queries(want int, what string) {
	a.t.Helper()
	if got := int(a.zone.queries.Swap(0)); got != want {
		a.t.Errorf("%s: %d queries, want %d", what, got, want)
	}
}

// queriesAbout is queries where so many are made that a datagram may get lost and be sent again.
func (a *asker) queriesAbout(want int, what string) {
	a.t.Helper()
	if got := int(a.zone.queries.Swap(0)); got < want || got > want+want/50 {
		a.t.Errorf("%s: %d queries, want %d", what, got, want)
	}
}
