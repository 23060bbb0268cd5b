package destination_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/destination"
)

// TestScanIsShared: one scan in flight serves all who wait, and holds for a while.
func TestScanIsShared(t *testing.T) {
	z := startZone(t, append([]string{reverse6}, forwardOnly...)...)
	z.behave(func() { z.delay = 20 * time.Millisecond })
	a := newAsker(t, z)
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() { a.want(scannedMesh(), fmt.Sprintf("10.1.3.%d:80", n), destination.Unknown) })
	}
	wg.Wait()
	a.queries(20+probeQueries+3, "20 addresses, 3 Services")
	a.want(scannedMesh(), "10.1.3.100:80", destination.Unknown)
	a.queries(1, "another address")
	a.after(29 * time.Second)
	a.want(scannedMesh(), "10.1.3.101:80", destination.Unknown)
	a.queries(1, "within the period")
	z.add(t, "web.prod.svc.cluster.local. 5 IN A 10.1.3.102")
	a.after(time.Second)
	a.want(scannedMesh(), "10.1.3.102:80", destination.Mesh, "web", "web-canary")
	a.queries(1+probeQueries+3, "after the period")
	a.want(scannedMesh(), "[fd00::9]:80", destination.Mesh, "db")
	a.queries(1+probeQueries+3+1, "the other family, and the name of one of its addresses")
	if got := a.count("scan"); got != 3 {
		t.Errorf("%d scans were counted, want 3", got)
	}
}

// TestScanFollowsTheMap: a Service that joins the mesh is asked about at once, and it alone.
func TestScanFollowsTheMap(t *testing.T) {
	a := newAsker(t, startZone(t, append(forwardOnly, "late.prod.svc.cluster.local. 5 IN A 10.96.0.20")...))
	a.want(scannedMesh(), "10.96.0.20:80", destination.TryMesh) // it is in the network of Services
	a.queries(1+probeQueries+3, "before")
	grown := scannedMesh(func(m *meshmap.Map) {
		m.Services = append(m.Services, meshmap.Service{Host: "late.prod.svc.cluster.local", Identities: []string{pattern("late")}})
	})
	a.want(grown, "10.96.0.20:80", destination.Mesh, "late")
	a.queries(1, "after it joined")
	a.want(scannedMesh(), "10.96.0.9:80", destination.Mesh, "db")
	a.want(grown, "10.96.0.20:80", destination.Mesh, "late")
	a.queries(1, "both maps in turn: the reverse zone alone is asked about the new address")
}

// TestScanHeals: what failed is asked again soon, and it alone.
func TestScanHeals(t *testing.T) {
	z := startZone(t, forwardOnly...)
	z.behave(func() { z.rcode["canary.prod.svc.cluster.local."] = dns.RcodeServerFailure })
	a := newAsker(t, z)
	a.want(scannedMesh(), "10.1.2.1:80", destination.Refused)
	a.queries(1+probeQueries+3+1, "the failure is tried twice")
	z.behave(func() { clear(z.rcode) })
	a.want(scannedMesh(), "10.1.2.1:80", destination.Refused)
	a.queries(0, "too soon")
	a.after(time.Second)
	a.want(scannedMesh(), "10.1.2.1:80", destination.Mesh, "web-canary")
	a.queries(2, "its name, and the Service that failed")
	if a.count("scan_error") != 1 || a.count("scan") != 1 {
		t.Errorf("counted %v", a.seen)
	}
}

// TestProbeRecovers: a DNS that comes to its senses is believed again.
func TestProbeRecovers(t *testing.T) {
	z := startBareZone(t, forwardOnly...)
	a := newAsker(t, z)
	a.want(scannedMesh(), "10.1.2.3:80", destination.Refused)
	a.queries(1+2, "no Service is asked about where the probe is denied")
	z.add(t, probeA)
	z.add(t, probePTR)
	a.after(5 * time.Second)
	a.want(scannedMesh(), "10.1.2.3:80", destination.Unknown)
	a.want(scannedMesh(), "10.1.2.1:80", destination.Mesh, "web-canary")
	if a.count("scan_denied") != 1 || a.count("scan") != 1 {
		t.Errorf("counted %v", a.seen)
	}
}

// TestSlowScan: nobody waits longer than the connection may, nor longer than a second where it is mutual TLS anyway.
func TestSlowScan(t *testing.T) {
	z := startZone(t, forwardOnly...)
	z.behave(func() { z.delay = 600 * time.Millisecond }) // three questions to the probe, then the Services: 2.4 s
	a := newAsker(t, z)
	ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
	defer cancel()
	begun := time.Now()
	d, _ := a.Resolve(ctx, scannedMesh(), netip.MustParseAddrPort("10.1.2.3:80"))
	if took := time.Since(begun); d.Kind != destination.Refused || !strings.Contains(d.Reason, "still being asked") || took > 1500*time.Millisecond {
		t.Errorf("an address without a name is %+v after %v", d, took)
	}
	begun = time.Now()
	if d := a.want(scannedMesh(), "10.200.1.1:80", destination.Mesh); !answerOf(d).AnyMember || time.Since(begun) > 1500*time.Millisecond {
		t.Errorf("meshCIDRs: %+v after %v", d, time.Since(begun))
	}
	a.want(scannedMesh(), "10.1.2.3:80", destination.Unknown) // the scan went on
	a.want(scannedMesh(), "10.1.2.1:80", destination.Mesh, "web-canary")
	if got := a.count("scan"); got != 1 {
		t.Errorf("%d scans were counted, want 1", got)
	}
}

// manyServices is a map and the forward zone of its Services: number n has the clusterIP 10.100.<n/250>.<n%250>.
func manyServices(t *testing.T, n int) (*meshmap.Map, *zone) {
	t.Helper()
	z := startZone(t)
	m := emptyMesh()
	for i := range n {
		host := fmt.Sprintf("s%d.prod.svc.cluster.local", i)
		m.Services = append(m.Services, meshmap.Service{Host: host, Identities: []string{pattern(fmt.Sprint("s", i))}})
		z.add(t, fmt.Sprintf("%s. 5 IN A 10.100.%d.%d", host, i/250, i%250))
	}
	return m, z
}

// TestTenThousandServices: the load on DNS is bounded in width and in time.
func TestTenThousandServices(t *testing.T) {
	const services = 10_000
	m, z := manyServices(t, services)
	a := newAsker(t, z)
	d, _ := a.Resolve(t.Context(), m, netip.MustParseAddrPort("10.100.39.249:80"))
	if d.Accepts(proxytestID("s9999"), nil) == "" {
		t.Fatalf("the last Service is %+v", d)
	}
	a.queriesAbout(1+probeQueries+services, "first")
	if most := z.most.Load(); most > 16 {
		t.Errorf("%d queries at once", most)
	}
	for i := range 20 { // the period is 300 s
		a.after(14 * time.Second)
		a.want(m, fmt.Sprintf("10.99.0.%d:80", i), destination.TryMesh)
	}
	a.queries(20, "280 s")
	a.after(21 * time.Second)
	if d, _ := a.Resolve(t.Context(), m, netip.MustParseAddrPort("10.99.1.1:80")); d.Kind != destination.TryMesh {
		t.Errorf("after 301 s it is %+v", d)
	}
	a.queriesAbout(1+probeQueries+services, "after 301 s")
}

// TestDNSDiesInAScan: a scan ends after some failures; the rest waits for the next.
func TestDNSDiesInAScan(t *testing.T) {
	m, z := manyServices(t, 300)
	z.behave(func() {
		for i := range 300 {
			z.rcode[fmt.Sprintf("s%d.prod.svc.cluster.local.", i)] = dns.RcodeServerFailure
		}
	})
	a := newAsker(t, z)
	a.want(m, "10.100.1.49:80", destination.Refused)
	if got := z.queries.Swap(0); got > 1+probeQueries+2*(64+16) {
		t.Errorf("%d queries to a DNS that fails", got)
	}
	a.after(time.Second)
	a.want(m, "10.100.1.49:80", destination.Refused)
	a.queries(1, "1 s later: each failure costs 30 ms")
	z.behave(func() { clear(z.rcode) })
	a.after(1500 * time.Millisecond)
	a.want(m, "10.100.1.49:80", destination.Mesh, "s299")
	a.queries(1+300, "2.5 s later")
}
