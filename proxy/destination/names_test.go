package destination

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestParseName(t *testing.T) {
	for fqdn, want := range map[string]Name{
		"web.prod.svc.cluster.local.":                {Service: "web.prod"},
		"WEB.prod.SVC.Cluster.Local.":                {Service: "web.prod"},
		"10-1-1-1.web.prod.svc.cluster.local.":       {Service: "web.prod", Endpoint: true},
		"web-0.web.prod.svc.cluster.local.":          {Service: "web.prod", Endpoint: true},
		"web.prod.svc.cluster.local":                 {},
		"web.prod.svc.cluster.local.example.":        {},
		"prod.svc.cluster.local.":                    {},
		".prod.svc.cluster.local.":                   {},
		"..svc.cluster.local.":                       {},
		"a.b.web.prod.svc.cluster.local.":            {},
		"10-1-1-1.prod.pod.cluster.local.":           {},
		`web\.prod.svc.cluster.local.`:               {},
		`x.web\.prod.ns.svc.cluster.local.`:          {},
		"\u212aubernetes.default.svc.cluster.local.": {}, // the Kelvin sign is a k in lower case
		"web.prod.svc.evil-cluster.local.":           {},
		"":                                           {},
	} {
		if got, ok := parseName(fqdn, "cluster.local"); got != want || ok != (want != Name{}) {
			t.Errorf("%q is %+v, %t, want %+v", fqdn, got, ok, want)
		}
	}
}

// FuzzNames: whatever a reverse zone says, as text, as a name on the wire and as a whole message, it yields no name but
// those of Services below svc.<domain>, and such a name is asked about as it was written.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{
		"web.prod.svc.cluster.local.", "10-1-1-1.web.prod.svc.cluster.local.", `web\.prod.svc.cluster.local.`, `\119eb.prod.svc.cluster.local.`,
		"..svc.cluster.local.", "\x03web\x04prod\x03svc\x07cluster\x05local\x00", "\x08web.prod\x03svc\x07cluster\x05local\x00", "\xc0\x0c", "\u212a.b.svc.cluster.local.",
	} {
		f.Add([]byte(seed))
	}
	message := new(dns.Msg)
	message.Answer = []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: "1.1.1.10.in-addr.arpa.", Rrtype: dns.TypePTR, Class: dns.ClassINET}, Ptr: "web.prod.svc.cluster.local."}}
	packed, err := message.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	const domain = "cluster.local"
	f.Fuzz(func(t *testing.T, data []byte) {
		answers := []*dns.Msg{{Answer: []dns.RR{&dns.PTR{Ptr: string(data)}}}}
		if target, _, err := dns.UnpackDomainName(data, 0); err == nil {
			answers = append(answers, &dns.Msg{Answer: []dns.RR{&dns.PTR{Ptr: target}}})
		}
		if m := new(dns.Msg); m.Unpack(data) == nil {
			answers = append(answers, m)
		}
		for _, answer := range answers {
			for _, p := range pointers(answer, domain) {
				service, namespace, two := strings.Cut(p.name.Service, ".")
				if !two || service == "" || namespace == "" || strings.Contains(namespace, ".") || strings.ToLower(p.name.Service) != p.name.Service {
					t.Fatalf("%q names the Service %q", p.target, p.name.Service)
				}
				host := "." + p.name.Service + ".svc." + domain + "."
				if !strings.HasSuffix("."+strings.ToLower(p.target), host) || p.name.Endpoint != (len(p.target)+1 > len(host)) || p.name.Confirmed {
					t.Fatalf("%q is read as %+v", p.target, p.name)
				}
				labels, ok := dns.IsDomainName(p.target)
				if want := 4 + strings.Count(domain, "."); ok && labels != want && labels != want+1 {
					t.Fatalf("%q has %d labels on the wire", p.target, labels)
				}
			}
		}
	})
}

// TestGraceCacheIsBounded: what was confirmed longest ago goes first.
func TestGraceCacheIsBounded(t *testing.T) {
	m, now := newGraceCache(), time.Now()
	at := func(n int) key {
		return key{netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), "cluster.local"}
	}
	for n := range maxGrace {
		m.put(&graceEntry{key: at(n), names: []Name{{Service: fmt.Sprint("s", n, ".prod")}}, until: now.Add(graceTime)})
	}
	m.put(&graceEntry{key: at(0), until: now.Add(graceTime)})
	for n := range 10 {
		m.put(&graceEntry{key: at(maxGrace + n), until: now.Add(graceTime)})
	}
	if len(m.items) != maxGrace || m.order.Len() != maxGrace {
		t.Errorf("it holds %d and %d addresses, want %d", len(m.items), m.order.Len(), maxGrace)
	}
	for n, want := range map[int]bool{0: true, 1: false, 10: false, 11: true, maxGrace + 9: true} {
		if got := m.get(at(n), now) != nil; got != want {
			t.Errorf("address %d is remembered: %t", n, got)
		}
	}
	if m.get(at(11), now.Add(graceTime)) != nil || len(m.items) != maxGrace-1 {
		t.Error("what is over is still there")
	}
}
