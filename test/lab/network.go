//go:build linux

package lab

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/meshless-dev/meshless/test/program"
)

// Network is where the pods and Services of a cluster have their addresses. Each field is the address before the first.
type Network struct {
	Pods4, Pods6         netip.Addr
	Services4, Services6 netip.Addr
}

// DefaultNetwork has private addresses, as most clusters do.
var DefaultNetwork = Network{
	netip.MustParseAddr("10.42.0.0"), netip.MustParseAddr("fd42::"), netip.MustParseAddr("10.43.0.0"), netip.MustParseAddr("fd43::"),
}

// Places in the Service network. Services that name no address follow firstService.
const (
	kubernetesPlace = 1
	dnsPlace        = 10
	firstService    = 20
)

// after is the address n places behind base.
func after(base netip.Addr, n int) netip.Addr {
	b := base.AsSlice()
	last := b[len(b)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+uint32(n))
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func (n Network) service(place int) []netip.Addr {
	return []netip.Addr{after(n.Services4, place), after(n.Services6, place)}
}

// Option changes what New makes.
type Option func(*Lab)

// WithNetwork gives pods and Services other addresses.
func WithNetwork(n Network) Option { return func(l *Lab) { l.network = n } }

// WithImages adds images, or replaces those of the same names.
func WithImages(images map[string]Image) Option {
	return func(l *Lab) { l.images = merged(l.images, images) }
}

// Versions of CoreDNS. 1.12.0, which came with Kubernetes 1.33, names only those addresses whose endpoint has a host
// name; all before and after it name every endpoint's (coredns#7110, #7189).
const (
	CoreDNS1120  = "coredns-1.12.0"
	CoreDNSLater = "coredns"
)

// CoreDNSVersions are those that tests run with.
var CoreDNSVersions = []string{CoreDNS1120, CoreDNSLater}

// CoreDNS has a real CoreDNS answer instead of the lab's name server, or skips the test.
func CoreDNS(tb testing.TB, version string) Option {
	tb.Helper()
	binary := program.Find(tb, version, "test/env/programs.sh builds it")
	return func(l *Lab) { l.coreDNS = binary }
}
