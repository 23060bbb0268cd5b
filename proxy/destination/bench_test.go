package destination_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// BenchmarkFirstConnection is what the first connection to an address costs in a namespace of 1,000 Services and 1,000
// pods: time, and queries to DNS, which is on loopback here.
func BenchmarkFirstConnection(b *testing.B) {
	const size = 1000
	z := startZone(b)
	mesh := proxytest.Mesh()
	for i := range size {
		name := fmt.Sprintf("s%d.prod", i)
		mesh.Services = append(mesh.Services, meshmap.Service{Host: name + ".svc.cluster.local", Identities: []string{pattern(fmt.Sprint("s", i))}})
		at := fmt.Sprintf("%d.%d", i/250, i%250)
		for _, record := range flatten(service("10.96."+at, name), pod("10.1."+at, name, members+".prod"), pod("10.3."+at, members+".prod"), pod("10.4."+at, "x.elsewhere")) {
			z.add(b, record)
		}
		z.add(b, members+".prod.svc.cluster.local. 5 IN A 10.1."+at)
	}
	for _, c := range []struct{ name, network string }{
		{"clusterIP", "10.96."}, {"pod behind a Service", "10.1."}, {"pod without a Service", "10.3."}, {"pod outside the mesh", "10.4."}, {"no name", "10.5."},
		{"Internet", "9.9."},
	} {
		b.Run(c.name, func(b *testing.B) {
			var r *destination.Resolver
			var took []time.Duration
			z.queries.Store(0)
			for i := range b.N {
				if i%size == 0 {
					r = destination.New(destination.Options{Servers: []netip.AddrPort{z.addr}, Own: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.1.0.0")} }})
				}
				begun := time.Now()
				r.Resolve(b.Context(), mesh, netip.MustParseAddrPort(fmt.Sprintf("%s%d.%d:80", c.network, i%size/250, i%250)))
				took = append(took, time.Since(begun))
			}
			slices.Sort(took)
			b.ReportMetric(float64(z.queries.Load())/float64(b.N), "queries/op")
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
