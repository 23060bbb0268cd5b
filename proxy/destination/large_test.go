package destination_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// A package of 10,000 workloads in 1,000 namespaces costs a proxy as many queries as its own namespace has Services and
// the package namespaces, once a scan, and not one for each workload. A Service elsewhere costs its own two.
func TestQueriesOfALargePackage(t *testing.T) {
	const namespaces, each = 1000, 10
	z := startZone(t, members+".prod.svc.cluster.local. 5 IN A 10.1.0.1")
	mesh := proxytest.Mesh()
	for n := range namespaces - 1 {
		namespace := fmt.Sprint("n", n)
		mesh.Namespaces = append(mesh.Namespaces, namespace)
		for i := range each {
			at := n*each + i
			z.add(t, fmt.Sprintf("%s.%s.svc.cluster.local. 5 IN A 10.%d.%d.%d", members, namespace, 64+at>>16, at>>8&255, at&255))
		}
	}
	for i := range each {
		mesh.Services = append(mesh.Services, meshmap.Service{Host: fmt.Sprintf("s%d.prod.svc.cluster.local", i), Identities: []string{pattern(fmt.Sprint("s", i))}})
	}
	for _, record := range flatten(service("10.96.4.4", "s1.n7")) {
		z.add(t, record)
	}
	r := destination.New(destination.Options{Servers: []netip.AddrPort{z.addr}, Own: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.1.0.1")} }})
	ask := func(dst string) (destination.Kind, int64) {
		before := z.queries.Load()
		d, _ := r.Resolve(t.Context(), mesh, netip.MustParseAddrPort(dst))
		return d.Kind, z.queries.Load() - before
	}
	if kind, n := ask("10.96.4.4:80"); kind != destination.Mesh || n != 2 {
		t.Errorf("a Service elsewhere is %s by %d queries, want 2", kind, n)
	}
	// a pod that has no name, as with CoreDNS 1.12.0
	kind, n := ask("10.64.9.9:80")
	if kind != destination.Mesh || n > namespaces+each+10 {
		t.Errorf("a pod elsewhere without a name is %s by %d queries", kind, n)
	}
	if kind, n := ask("10.64.9.10:80"); kind != destination.Mesh || n > 2 {
		t.Errorf("the next one is %s by %d queries, want those about itself", kind, n)
	}
	t.Logf("the scan of %d namespaces and %d Services took %d queries", namespaces, each, n)
}
