package nameserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/proxy/loopback"
)

// TestAnswers: names of the mesh lead to loopback addresses or get SERVFAIL, and others stay what they are.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name string
		kind uint16
		want string
	}{
		{"web.prod.svc.cluster.local.", dns.TypeA, "127.64.1.1"},
		{"WEB.Prod.Svc.Cluster.LOCAL.", dns.TypeA, "127.64.1.1"},
		{"web.prod.svc.cluster.local.", dns.TypeAAAA, ""},
		{"db.data.svc.cluster.local.", dns.TypeA, "127.64.1.1 127.64.1.2"}, // headless
		{"db-0.db.data.svc.cluster.local.", dns.TypeA, "127.64.1.1"},
		{"cache.other.svc.cluster.local.", dns.TypeA, "127.64.1.1"}, // of a namespace that the config names
		{"short.prod.svc.cluster.local.", dns.TypeA, "web.prod.svc.cluster.local. 127.64.1.1"},
		{"db.example.com.", dns.TypeA, "db.data.svc.cluster.local. 127.64.1.1 127.64.1.2"},
		// what a search list makes of names
		{"web.prod.svc.cluster.local.prod.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"db.data.prod.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"db.data.", dns.TypeA, "NXDOMAIN"},
		{"db-7.db.data.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		// out of the mesh
		{"legacy.prod.svc.cluster.local.", dns.TypeA, "10.96.0.2"},
		{"statsd.prod.svc.cluster.local.", dns.TypeA, "10.96.0.9"}, // of UDP alone
		{"kubernetes.default.svc.cluster.local.", dns.TypeA, "10.96.0.254"},
		{"free.far.svc.cluster.local.", dns.TypeA, "10.96.0.6"},
		{"10-0-9-1.far.pod.cluster.local.", dns.TypeA, "10.0.9.1"},
		{"example.com.", dns.TypeA, "93.184.216.34"},
		{"example.com.", dns.TypeAAAA, "[2606:2800::1]"},
		{"api.prod.svc.cluster.local.", dns.TypeA, "example.com. 93.184.216.34"},
		// of the mesh, and nobody knows the ports
		{"unknown.prod.svc.cluster.local.", dns.TypeA, "SERVFAIL"},
		{"Unknown.DATA.svc.cluster.local.", dns.TypeA, "SERVFAIL"},
		{"10-0-0-1.data.pod.cluster.local.", dns.TypeA, "SERVFAIL"},
		{`odd\.name.prod.svc.cluster.local.`, dns.TypeA, "SERVFAIL"},
		{"only6.prod.svc.cluster.local.", dns.TypeAAAA, "SERVFAIL"},
		{"empty.prod.svc.cluster.local.", dns.TypeA, ""},
	} {
		f := newFixture(t)
		answer := f.query(t, c.name, c.kind)
		if got := said(answer); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.name, dns.TypeToString[c.kind], got, c.want)
		}
		if answer.Question[0].Name != c.name || !answer.Response || !answer.RecursionAvailable || answer.Authoritative || answer.AuthenticatedData {
			t.Errorf("%s: %s", c.name, answer)
		}
		if refused := len(f.refused) == 1 && strings.Contains(f.refused[0], "spec.redirect.services"); refused != (c.want == "SERVFAIL") {
			t.Errorf("%s: refused: %v", c.name, f.refused)
		}
	}
}

// TestTargets: what the name says goes along with the address.
func TestTargets(t *testing.T) {
	f := newFixture(t)
	f.query(t, "db.data.svc.cluster.local.", dns.TypeA)
	f.query(t, "DB-0.db.data.svc.cluster.local.", dns.TypeA)
	want := []loopback.Target{{Service: "db.data", Addr: netip.MustParseAddr("10.0.0.1")}, {Service: "db.data", Addr: netip.MustParseAddr("10.0.0.2")},
		{Service: "db.data", Addr: netip.MustParseAddr("10.0.0.1"), Endpoint: true}}
	if !slices.Equal(f.targets, want) || f.ports.String() != "5432" {
		t.Errorf("%+v on %s", f.targets, f.ports)
	}
	answer := f.query(t, "db.data.svc.cluster.local.", dns.TypeA)
	if ttl := answer.Answer[0].Header().Ttl; ttl != 30 {
		t.Errorf("an answer with loopback addresses holds for %d s", ttl)
	}
}

// TestFamilies: loopback addresses are of IPv4, whatever the Service has.
func TestFamilies(t *testing.T) {
	for _, c := range []struct {
		hasIPv4 bool
		name    string
		kind    uint16
		want    string
	}{
		{true, "web.prod.svc.cluster.local.", dns.TypeA, "127.64.1.1"},
		{true, "web.prod.svc.cluster.local.", dns.TypeAAAA, ""},
		{false, "web.prod.svc.cluster.local.", dns.TypeA, "127.64.1.1"},
		{false, "web.prod.svc.cluster.local.", dns.TypeAAAA, "[::ffff:127.64.1.1]"},
		{true, "only6.prod.svc.cluster.local.", dns.TypeA, "127.64.1.1"},
		{true, "only6.prod.svc.cluster.local.", dns.TypeAAAA, ""},
		{false, "only6.prod.svc.cluster.local.", dns.TypeAAAA, "[::ffff:127.64.1.1]"},
		{false, "db-0.db.data.svc.cluster.local.", dns.TypeAAAA, "[::ffff:127.64.1.1]"}, // it has IPv4 alone
		{false, "example.com.", dns.TypeAAAA, "[2606:2800::1]"},
		{true, "gone.web.prod.svc.cluster.local.", dns.TypeAAAA, "NXDOMAIN"},
	} {
		f := newFixture(t)
		f.hasIPv4, f.mesh.ServicePorts["only6.prod"] = c.hasIPv4, ports(t, "80")
		if got := said(f.query(t, c.name, c.kind)); got != c.want {
			t.Errorf("IPv4 %t, %s %s: %q, want %q", c.hasIPv4, c.name, dns.TypeToString[c.kind], got, c.want)
		}
		if len(f.targets) > 0 && c.name == "web.prod.svc.cluster.local." && f.targets[0].Addr.Is4() != (c.kind == dns.TypeA) {
			t.Errorf("%+v is asked for by %s", f.targets, dns.TypeToString[c.kind])
		}
	}
}

// TestElsewhere: a Service of another package under the same authority is in the mesh by its alias, one of a namespace
// that our package got later by its members Service. Without an answer nobody knows.
func TestElsewhere(t *testing.T) {
	const theirs = "theirs.far.svc.cluster.local."
	for _, c := range []struct {
		shared bool
		has    string // besides
		down   string
		want   string
	}{
		{false, "", "", "10.96.0.7"},
		{true, "", "", "10.96.0.7"},
		{true, alias("theirs", "far"), "", "SERVFAIL"},
		{false, alias("theirs", "far"), "", "10.96.0.7"},
		{true, alias("other", "far"), "", "10.96.0.7"},
		{false, "meshless-members-shop.far.svc.cluster.local.", "", "SERVFAIL"},
		{false, "meshless-members-else.far.svc.cluster.local.", "", "10.96.0.7"},
		{true, "", alias("theirs", "far"), "SERVFAIL"},
		{false, "", "meshless-members-shop.far.svc.cluster.local.", "SERVFAIL"},
		{true, "", theirs, "SERVFAIL"},
	} {
		f := newFixture(t)
		if f.mesh.SharedCA = c.shared; c.has != "" {
			f.zone.names[c.has] = []string{"10.0.7.7"}
		}
		f.zone.down[c.down] = true
		for range 2 { // the second from memory
			if got := said(f.query(t, theirs, dns.TypeA)); got != c.want {
				t.Errorf("%+v: %q", c, got)
			}
		}
	}
}

// TestAttackOperator: a Service of another package that no render knows, as an operator makes it, has no alias. The
// names of its addresses tell that they are pods of the mesh. Without an answer nobody knows.
func TestAttackOperator(t *testing.T) {
	for _, c := range []struct {
		shared        bool
		pod, down     string
		want          string
		mostQuestions int
	}{
		{true, "10-96-0-7.meshless-members-else.far.svc.cluster.local.", "", "SERVFAIL", 4},
		{true, "10-96-0-7.Meshless-Members-shop.PROD.svc.cluster.local.", "", "SERVFAIL", 4},
		{true, "10-96-0-7.theirs.far.svc.cluster.local.", "", "10.96.0.7", 4},
		{true, "meshless-members-else.example.com.", "", "10.96.0.7", 4},
		{true, "", "7.0.96.10.in-addr.arpa.", "SERVFAIL", 5}, // which is asked again
		{false, "10-96-0-7.meshless-members-else.far.svc.cluster.local.", "", "10.96.0.7", 2},
	} {
		f := newFixture(t)
		f.mesh.SharedCA = c.shared
		f.zone.down[c.down] = true
		if c.pod != "" {
			f.zone.extra = []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: "7.0.96.10.in-addr.arpa.", Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: 5}, Ptr: c.pod}}
		}
		if got := said(f.query(t, "theirs.far.svc.cluster.local.", dns.TypeA)); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
		if len(f.zone.asked) > c.mostQuestions {
			t.Errorf("%+v: %v", c, f.zone.asked)
		}
	}
}

// TestFacts: whether a name exists is asked for again soon where it did not, and rarely where it did.
func TestFacts(t *testing.T) {
	f := newFixture(t)
	now := time.Unix(1_800_000_000, 0)
	f.o.Now = func() time.Time { return now }
	ask := func(want string) {
		t.Helper()
		if got := said(f.query(t, "theirs.far.svc.cluster.local.", dns.TypeA)); got != want {
			t.Errorf("after %s: %q, want %q", now.Sub(time.Unix(1_800_000_000, 0)), got, want)
		}
	}
	const members = "meshless-members-shop.far.svc.cluster.local."
	ask("10.96.0.7")
	f.zone.names[members] = []string{"10.0.7.7"}
	ask("10.96.0.7")
	now = now.Add(lacksFor)
	ask("SERVFAIL")
	delete(f.zone.names, members)
	now = now.Add(lacksFor)
	ask("SERVFAIL")
	now = now.Add(existsFor)
	ask("10.96.0.7")
	for i := range maxFacts + 100 {
		if _, err := f.exists(t.Context(), fmt.Sprintf("%d.far.svc.cluster.local.", i), dns.TypeA); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.known.all) > maxFacts {
		t.Errorf("%d facts", len(f.known.all))
	}
}

// TestCannotLead: what cannot be listened for gets no answer, and the log has the way out.
func TestCannotLead(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&loopback.TakenError{Port: 80, Err: errors.New("address already in use")}, "let it listen on the pod's address"},
		{loopback.ErrFull, "all listeners"},
	} {
		f := newFixture(t)
		f.leadErr = c.err
		if got := said(f.query(t, "web.prod.svc.cluster.local.", dns.TypeA)); got != "SERVFAIL" || len(f.refused) != 1 || !strings.Contains(f.refused[0], c.want) {
			t.Errorf("%v: %q, %v", c.err, got, f.refused)
		}
	}
}

// TestAttackAnswers: whatever a name server says of a name of the mesh, none of its addresses reaches the app.
func TestAttackAnswers(t *testing.T) {
	evil := func(name string) *dns.A {
		return &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: []byte{6, 6, 6, 6}}
	}
	hint := &dns.HTTPS{SVCB: dns.SVCB{Hdr: dns.RR_Header{Name: "web.prod.svc.cluster.local.", Rrtype: dns.TypeHTTPS, Class: dns.ClassINET, Ttl: 300}, Priority: 1, Target: ".",
		Value: []dns.SVCBKeyValue{&dns.SVCBIPv4Hint{Hint: []net.IP{{6, 6, 6, 6}}}}}}
	srv := func(owner, target string) *dns.SRV {
		return &dns.SRV{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeSRV, Class: dns.ClassINET, Ttl: 300}, Port: 80, Target: target}
	}
	const web = "web.prod.svc.cluster.local."
	for _, c := range []struct {
		what  string
		names map[string][]string
		extra []dns.RR
		kind  uint16
		want  string // of web.prod
	}{
		{"a foreign address", map[string][]string{"web.prod.svc.cluster.local.": {"6.6.6.6"}}, nil, dns.TypeA, "127.64.1.1"},
		{"an alias of a foreign name", map[string][]string{"web.prod.svc.cluster.local.": {"evil.com."}, "evil.com.": {"6.6.6.6"}}, nil, dns.TypeA, "evil.com. 127.64.1.1"},
		{"an alias of a Service outside", map[string][]string{"web.prod.svc.cluster.local.": {"legacy.prod.svc.cluster.local."}, "legacy.prod.svc.cluster.local.": {"6.6.6.6"}},
			nil, dns.TypeA, "legacy.prod.svc.cluster.local. 127.64.1.1"},
		{"a circle", map[string][]string{"web.prod.svc.cluster.local.": {"web.prod.svc.cluster.local."}}, nil, dns.TypeA, "SERVFAIL"},
		{"addresses of other names", nil, []dns.RR{evil("evil.com."), evil("prod.svc.cluster.local.")}, dns.TypeA, "127.64.1.1"},
		{"addresses for another question", nil, []dns.RR{evil("web.prod.svc.cluster.local.")}, dns.TypeTXT, ""},
		{"hints", nil, []dns.RR{hint, evil("web.prod.svc.cluster.local.")}, dns.TypeHTTPS, ""},
		{"an address beside a denial", map[string][]string{web: nil}, []dns.RR{evil(web)}, dns.TypeA, "NXDOMAIN"},
		{"a server of another name", nil, []dns.RR{srv(web, "evil.com."), srv(web, "legacy.prod.svc.cluster.local."), srv(web, "unknown.prod.svc.cluster.local.")}, dns.TypeSRV, ""},
		{"servers of its own", nil, []dns.RR{srv(web, web), srv(web, "10-0-0-1."+web)}, dns.TypeSRV, "SRV SRV"},
		{"a server of another name of the mesh", nil, []dns.RR{srv("_http._tcp."+web, "db.data.svc.cluster.local.")}, dns.TypeSRV, ""},
		{"an address of IPv4 for IPv6", nil, []dns.RR{evil("web.prod.svc.cluster.local.")}, dns.TypeAAAA, ""},
	} {
		f := newFixture(t)
		for name, records := range c.names {
			if f.zone.names[name] = records; records == nil {
				delete(f.zone.names, name)
			}
		}
		f.zone.extra = c.extra
		if got := said(f.query(t, "web.prod.svc.cluster.local.", c.kind)); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
		for _, target := range f.targets {
			if target.Service != "web.prod" {
				t.Errorf("%s: the app gets to %s", c.what, target.Service)
			}
		}
	}
}

// TestManyAddresses: a client tries few addresses, so few are led.
func TestManyAddresses(t *testing.T) {
	f := newFixture(t)
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("10.0.1.%d", i%100+1)) // each twice
	}
	f.zone.names["db.data.svc.cluster.local."] = many
	if got := f.query(t, "db.data.svc.cluster.local.", dns.TypeA); len(got.Answer) != maxLed || len(f.targets) != maxLed {
		t.Errorf("%d addresses, %d targets", len(got.Answer), len(f.targets))
	}
}

// TestKinds: what is no query for one name gets an error.
func TestKinds(t *testing.T) {
	f := newFixture(t)
	query := func(change func(*dns.Msg)) *dns.Msg {
		q := new(dns.Msg).SetQuestion("web.prod.svc.cluster.local.", dns.TypeA)
		change(q)
		return q
	}
	for what, c := range map[string]struct {
		q    *dns.Msg
		want string
	}{
		"ANY":           {query(func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeANY }), "NOTIMP"},
		"AXFR":          {query(func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeAXFR }), "REFUSED"},
		"CHAOS":         {query(func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }), "REFUSED"},
		"two questions": {query(func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }), "FORMERR"},
		"no question":   {query(func(q *dns.Msg) { q.Question = nil }), "FORMERR"},
		"an update":     {query(func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }), "NOTIMP"},
	} {
		if got := said(f.send(t, c.q, true)); got != c.want {
			t.Errorf("%s: %q", what, got)
		}
	}
	for _, wire := range [][]byte{nil, {1}, make([]byte, 11), {0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0}} {
		if got := f.answer(t.Context(), wire, true); got != nil {
			t.Errorf("%x: %x", wire, got)
		}
	}
	if got := f.answer(t.Context(), []byte{0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, true); len(got) != 12 || got[1] != 7 || got[3]&15 != dns.RcodeFormatError {
		t.Errorf("a query without its question: %x", got)
	}
	f.mesh = nil
	wire, _ := query(func(*dns.Msg) {}).Pack()
	if got := f.answer(t.Context(), wire, true); got != nil {
		t.Errorf("without a mesh map: %x", got)
	}
}

// TestSizes: an answer fits what the client takes, and says so where something is missing.
func TestSizes(t *testing.T) {
	f := newFixture(t)
	var many []string
	for i := range 250 {
		many = append(many, fmt.Sprintf("93.184.216.%d", i+1))
	}
	f.zone.names["example.com."] = many
	plain, with := new(dns.Msg).SetQuestion("example.com.", dns.TypeA), new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	with.SetEdns0(65000, false)
	for _, c := range []struct {
		q         *dns.Msg
		udp       bool
		size      int
		truncated bool
	}{{plain, true, 512, true}, {with, true, upstreamSize, true}, {plain, false, 65535, false}, {with, false, 65535, false}} {
		answer := f.send(t, c.q, c.udp)
		if answer.Compress = true; answer.Len() > c.size || answer.Truncated != c.truncated || (answer.IsEdns0() != nil) != (c.q == with) {
			t.Errorf("udp %t, EDNS %t: %d bytes, truncated %t", c.udp, c.q == with, answer.Len(), answer.Truncated)
		}
	}
}
