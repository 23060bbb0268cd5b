package destination_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/destination"
)

// Services without a reverse zone: db has a clusterIP, and canary is headless with two pods.
var forwardOnly = []string{
	"db.prod.svc.cluster.local. 5 IN A 10.96.0.9", "db.prod.svc.cluster.local. 5 IN AAAA fd00::9",
	"canary.prod.svc.cluster.local. 5 IN A 10.1.2.1", "canary.prod.svc.cluster.local. 5 IN A 10.1.2.2", "canary.prod.svc.cluster.local. 5 IN AAAA fd00::c",
}

// reverse6 is a reverse zone of IPv6 that knows one pod, for the probe is of IPv4 alone.
const reverse6 = "c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. 5 IN PTR pod.canary.prod.svc.cluster.local."

// scannedMesh is testMesh where db takes plaintext at 90 as its port, at 91 as its target port, and at 92 as both.
func scannedMesh(changes ...func(*meshmap.Map)) *meshmap.Map {
	return testMesh(append([]func(*meshmap.Map){func(m *meshmap.Map) {
		db := &m.Services[2]
		db.PlaintextPorts, db.PlaintextTargetPorts = netset.PortsOf(90, 92), netset.PortsOf(91, 92)
		m.Outbound.MeshCIDRs = []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16")}
	}}, changes...)...)
}

// expectation is what one address must be while DNS behaves as a case says.
type expectation struct {
	dst    string
	kind   destination.Kind
	names  []string // who may answer
	reason string   // is part of the reason
}

func mesh(dst string, names ...string) expectation {
	return expectation{dst, destination.Mesh, names, ""}
}
func unknown(dst string) expectation { return expectation{dst, destination.Unknown, nil, ""} }
func refused(dst, reason string) expectation {
	return expectation{dst, destination.Refused, nil, reason}
}
func serverFailure(name string) func(*zone) {
	return func(z *zone) { z.rcode[name] = dns.RcodeServerFailure }
}
func everyAnswer(f func(dns.Question) []dns.RR) func(*zone) { return func(z *zone) { z.lie = f } }

// TestDenial: an address whose name DNS denies. What is in the mesh never becomes plaintext by it, whatever is wrong
// with DNS.
func TestDenial(t *testing.T) {
	always := []expectation{ // whatever DNS does
		mesh("10.96.0.1:80", "web", "web-canary"), mesh("10.200.1.1:80"), unknown("8.8.8.8:53"), unknown("[2600::1]:80"),
	}
	cases := []struct {
		name    string
		records []string
		behave  func(*zone)
		want    []expectation
	}{
		{"no reverse zone of IPv6", append([]string{probeA, probePTR}, forwardOnly...), nil, []expectation{
			mesh("[fd00::9]:5432", "db"), refused("[fd00::10]:80", "ip6.arpa"), unknown("10.1.2.3:80"),
		}},
		{"no Service of IPv6 at all", append([]string{probeA, probePTR}, forwardOnly[0]), nil, []expectation{unknown("[fd00::10]:80")}},
		{"reverse zone denies single addresses", append([]string{probeA, probePTR, reverse6}, forwardOnly...), nil, []expectation{
			mesh("10.96.0.9:5432", "db"), mesh("10.1.2.1:80", "web-canary"), mesh("10.1.2.2:80", "web-canary"), mesh("[fd00::9]:5432", "db"),
			mesh("10.96.0.9:90", "db"), mesh("10.96.0.9:91", "db"), {"10.96.0.9:92", destination.Plaintext, nil, ""}, mesh("10.96.0.9:15020", "db"),
			unknown("10.1.2.3:80"), unknown("[fd00::10]:80"),
		}},
		{"names outside of the cluster", append([]string{probeA, probePTR, "9.0.96.10.in-addr.arpa. 5 IN PTR ip-10-96-0-9.ec2.internal."}, forwardOnly...), nil,
			[]expectation{mesh("10.96.0.9:5432", "db")}},
		{"names of foreign Services that are not confirmed", append([]string{probeA, probePTR, "9.0.96.10.in-addr.arpa. 5 IN PTR x.elsewhere.svc.cluster.local."}, forwardOnly...), nil,
			[]expectation{mesh("10.96.0.9:5432", "db")}},
		{"names with dots in their labels", append([]string{probeA, probePTR, `9.0.96.10.in-addr.arpa. 5 IN PTR web\.prod.svc.cluster.local.`}, forwardOnly...), nil,
			[]expectation{mesh("10.96.0.9:5432", "db")}},
		{"no reverse zone", append([]string{probeA}, forwardOnly...), nil, []expectation{
			mesh("10.96.0.9:5432", "db"), mesh("10.1.2.1:80", "web-canary"), mesh("[fd00::9]:5432", "db"), {"10.96.0.9:92", destination.Plaintext, nil, ""},
			refused("10.1.2.3:80", "in-addr.arpa"), unknown("10.96.0.250:443"),
		}},
		{"wrong clusterDomain, or DNS denies everything", nil, nil, []expectation{
			refused("10.96.0.9:5432", "clusterDomain"), refused("10.1.2.1:80", "clusterDomain"), refused("10.96.0.9:92", "clusterDomain"),
		}},
		{"every name has one address", nil, everyAnswer(func(q dns.Question) []dns.RR {
			if q.Qtype != dns.TypeA {
				return nil
			}
			rr, _ := dns.NewRR(q.Name + " 5 IN A 198.51.100.1")
			return []dns.RR{rr}
		}), []expectation{refused("10.96.0.9:5432", "reverse zones"), refused("10.96.0.9:92", "reverse zones")}},
		{"every address has one name", forwardOnly, everyAnswer(func(q dns.Question) []dns.RR {
			if q.Qtype != dns.TypePTR {
				return nil
			}
			rr, _ := dns.NewRR(q.Name + " 5 IN PTR host.example.")
			return []dns.RR{rr}
		}), []expectation{refused("10.96.0.9:5432", "clusterDomain")}},
		{"names another Service of the mesh", append([]string{probeA, probePTR, "9.0.96.10.in-addr.arpa. 5 IN PTR web.prod.svc.cluster.local."}, forwardOnly...), nil,
			[]expectation{refused("10.96.0.9:5432", "does not resolve"), refused("10.96.0.9:81", "does not resolve")}},
		{"names another Service of the mesh, both ways", append([]string{probeA, probePTR, "9.0.96.10.in-addr.arpa. 5 IN PTR web.prod.svc.cluster.local.",
			"web.prod.svc.cluster.local. 5 IN A 10.96.0.9"}, forwardOnly...), nil, []expectation{mesh("10.96.0.9:5432", "web", "web-canary")}},
		{"a Service fails", append([]string{probeA, probePTR}, forwardOnly...), serverFailure("canary.prod.svc.cluster.local."), []expectation{
			mesh("10.96.0.9:5432", "db"), refused("10.96.0.9:92", "SERVFAIL"), refused("10.1.2.1:80", "canary"), refused("10.1.2.3:80", "SERVFAIL"),
		}},
		{"the probe fails", append([]string{probeA, probePTR}, forwardOnly...), serverFailure(probeHost), []expectation{
			refused("10.96.0.9:5432", "SERVFAIL"), refused("10.1.2.3:80", "SERVFAIL"),
		}},
		{"the probe fails backward", append([]string{probeA, probePTR}, forwardOnly...), serverFailure("250.0.96.10.in-addr.arpa."), []expectation{
			mesh("10.96.0.9:5432", "db"), refused("10.1.2.3:80", "SERVFAIL"),
		}},
		{"Services get no answer", append([]string{probeA, probePTR}, forwardOnly...), func(z *zone) { z.mute = ".prod.svc.cluster.local." }, []expectation{
			refused("10.96.0.9:5432", "query"), refused("10.1.2.3:80", "query"),
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			z := startBareZone(t, c.records...)
			if c.behave != nil {
				z.behave(func() { c.behave(z) })
			}
			a := newAsker(t, z)
			for _, e := range append(c.want, always...) {
				if d := a.want(scannedMesh(), e.dst, e.kind, e.names...); !strings.Contains(d.Reason, e.reason) || answerOf(d).AnyMember != strings.HasPrefix(e.dst, "10.200.") {
					t.Errorf("%s is %+v", e.dst, d)
				}
			}
		})
	}
}

// TestLookupUnderAnotherMap: a lookup is data, so that open connections are evaluated again by it.
func TestLookupUnderAnotherMap(t *testing.T) {
	a := newAsker(t, startZone(t, forwardOnly...))
	dst := netip.MustParseAddrPort("10.96.0.9:92")
	d, lookup := a.Resolve(t.Context(), scannedMesh(), dst)
	if d.Kind != destination.Plaintext {
		t.Fatalf("got %+v", d)
	}
	noPlaintext := scannedMesh(func(m *meshmap.Map) { m.Services[2].PlaintextPorts = nil })
	without := scannedMesh(func(m *meshmap.Map) { m.Services = m.Services[:2] })
	lookup.Uncertain = errors.New("no probe")
	uncertain := a.MapOf(without).Decide(dst, lookup)
	lookup.Uncertain = nil
	for want, got := range map[destination.Kind]destination.Destination{
		destination.Mesh: a.MapOf(noPlaintext).Decide(dst, lookup), destination.Unknown: a.MapOf(without).Decide(dst, lookup), destination.Refused: uncertain,
	} {
		if got.Kind != want {
			t.Errorf("got %+v, want %s", got, want)
		}
	}
	a.queries(1+probeQueries+3, "in all")
}

// TestNoNeedToScan: an address with a confirmed name, and a map without Services, cost nothing more.
func TestNoNeedToScan(t *testing.T) {
	a := newAsker(t, startBareZone(t, ptr1, a1, "7.1.1.10.in-addr.arpa. 5 IN PTR foreign.elsewhere.svc.cluster.local.", "foreign.elsewhere.svc.cluster.local. 5 IN A 10.1.1.7"))
	a.want(testMesh(), "10.1.1.1:80", destination.Mesh, "web", "web-canary")
	a.want(testMesh(), "10.1.1.7:80", destination.Unknown)
	a.queries(4, "named addresses")
	a.want(emptyMesh(), "10.1.1.8:80", destination.Unknown)
	a.queries(1, "an empty mesh")
}
