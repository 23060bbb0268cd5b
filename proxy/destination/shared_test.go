package destination_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// TestSharedAddress: of the Services that share an address, those that have the port answer. For a port that
// none has, an identity must answer for all.
func TestSharedAddress(t *testing.T) {
	address := []netip.Addr{netip.MustParseAddr("192.0.2.10")}
	m := destination.NewMap(testMesh(func(m *meshmap.Map) {
		m.Services = []meshmap.Service{
			{Host: "dns.prod.svc.cluster.local", ClusterIPs: address, Ports: netset.PortsOf(53), Identities: []string{pattern("dns")}},
			{Host: "dns-again.prod.svc.cluster.local", ClusterIPs: address, Ports: netset.PortsOf(53), Identities: []string{pattern("dns")}},
			{Host: "web.prod.svc.cluster.local", ClusterIPs: address, Ports: netset.PortsOf(443), Identities: []string{pattern("web")}},
		}
	}))
	const both, web = "dns-again.prod.svc.cluster.local,dns.prod.svc.cluster.local", "web.prod.svc.cluster.local"
	for dst, want := range map[string]answer{
		"192.0.2.10:53":          {Kind: destination.Mesh, Host: both, Identities: []string{pattern("dns")}, TrustDomain: proxytest.TrustDomain},
		"192.0.2.10:443":         {Kind: destination.Mesh, Host: web, Identities: []string{pattern("web")}, TrustDomain: proxytest.TrustDomain},
		"[::ffff:192.0.2.10]:53": {Kind: destination.Mesh, Host: both, Identities: []string{pattern("dns")}, TrustDomain: proxytest.TrustDomain},
		"192.0.2.10:80":          {Kind: destination.Mesh, Host: both + "," + web, TrustDomain: proxytest.TrustDomain}, // and no identity
	} {
		if diff := cmp.Diff(want, answerOf(m.Decide(netip.MustParseAddrPort(dst), destination.Lookup{}))); diff != "" {
			t.Errorf("%s (-want +got)\n%s", dst, diff)
		}
	}
}
