package apply

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// localRoutes are the networks that init has made local to the namespace.
func localRoutes(t *testing.T, ns netns.NsHandle) (networks netset.Prefixes) {
	t.Helper()
	must(t, inside(t, ns, func() error {
		routes, err := clientRoutes()
		for _, r := range routes {
			networks = append(networks, networkOfIP(r.Dst))
		}
		return err
	}))
	return networks
}

// addFormerSource6 does what the init of earlier releases did.
func addFormerSource6() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	forever := uint32(math.MaxUint32)
	return netlink.AddrReplace(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(formerSource6), Mask: net.CIDRMask(128, 128)},
		Flags: unix.IFA_F_NODAD, ValidLft: int(forever), PreferedLft: 0})
}

func clientCIDRs(t *testing.T, text string) clientaddr.Ranges {
	t.Helper()
	r, err := clientaddr.Parse(text)
	must(t, err)
	return r
}

// TestClientRoutes: the ranges are local, once; a run with others replaces them; no interface has an address of them.
func TestClientRoutes(t *testing.T) { forEachBackend(t, testClientRoutes) }

func testClientRoutes(t *testing.T, b testBackend) {
	l := newLab(t)
	args := podplan.InitArgs{ProxyUID: proxyUID}
	b.apply(t, l.pod, args)
	text := b.apply(t, l.pod, args)
	if got := localRoutes(t, l.pod).String(); got != clientaddr.Default.String() || !strings.Contains(text, "; the app sees its clients in "+got+";") {
		t.Errorf("local are %s, printed was\n%s", got, text)
	}
	args.ClientCIDRs = clientCIDRs(t, "100.64.0.0/16,fd12::/64")
	text = b.apply(t, l.pod, args)
	if got := localRoutes(t, l.pod).String(); got != args.ClientCIDRs.String() || strings.Contains(text, "198.18.0.0") {
		t.Errorf("after another run, local are %s, printed was\n%s", got, text)
	}
	must(t, inside(t, l.pod, func() error {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range addrs {
			if args.ClientCIDRs.Of(networkOfIP(a.IPNet).Addr()).Contains(networkOfIP(a.IPNet).Addr()) {
				t.Errorf("an interface has %s: connections could get it as their source", a.IPNet)
			}
		}
		return err
	}))
}

// TestClientsAvoidNetworks: what the pod sees decides which range it gets, and a range that cannot be is an error.
func TestClientsAvoidNetworks(t *testing.T) {
	for name, c := range map[string]struct {
		address, configured, excluded string
		want, fails                   string
	}{
		"a pod of the default range":       {"198.19.4.5/24", "", "", "240.240.0.0/16,fd6d:6573:686c::/64", ""},
		"a pod of both":                    {"198.19.4.5/24 240.240.3.4/32", "", "", "192.0.2.0/24,fd6d:6573:686c::/64", ""},
		"a network left out":               {"", "", "198.18.3.0/24", "240.240.0.0/16,fd6d:6573:686c::/64", ""},
		"everything left out":              {"", "", "0.0.0.0/0,::/0", "198.18.0.0/15,fd6d:6573:686c::/64", ""},
		"by the configuration":             {"198.19.4.5/24", "100.64.0.0/10", "", "100.64.0.0/10,fd6d:6573:686c::/64", ""},
		"the configuration holds the pod":  {"100.64.7.7/24", "100.64.0.0/16", "", "", "spec.inbound.clientCIDRs"},
		"the configuration holds the peer": {"", "10.0.0.0/8", "", "", "10.77.0.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			must(t, inside(t, l.pod, func() error { return addAddresses("eth0", strings.Fields(c.address)...) }))
			args := podplan.InitArgs{ProxyUID: proxyUID, ClientCIDRs: clientCIDRs(t, c.configured)}
			var err error
			args.ExcludeOutboundCIDRs, err = netset.ParsePrefixes(c.excluded)
			must(t, err)
			text, err := tryApply(t, l.pod, args)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) || localRoutes(t, l.pod) != nil {
					t.Errorf("got %q, %v, want an error that says %q", text, err, c.fails)
				}
				return
			}
			must(t, err)
			if got := localRoutes(t, l.pod).String(); got != c.want {
				t.Errorf("local are %s, want %s", got, c.want)
			}
		})
	}
}

// TestClientsOfEarlierRelease: the address that an earlier init gave to lo does not keep the rules from being taken.
func TestClientsOfEarlierRelease(t *testing.T) {
	l := newLab(t)
	must(t, inside(t, l.pod, addFormerSource6))
	apply(t, l.pod, podplan.InitArgs{ProxyUID: proxyUID})
	if got := localRoutes(t, l.pod).String(); got != clientaddr.Default.String() {
		t.Errorf("local are %s", got)
	}
}

// TestSpoofedClient: whoever can send packets to the pod takes a client's address as its own source. The answers stay
// in the pod, so no connection comes of it, with every reverse path check off, and at ports without the proxy as well.
func TestSpoofedClient(t *testing.T) { forEachFamily(t, testSpoofedClient) }

func testSpoofedClient(t *testing.T, b testBackend, f family) {
	l := newLab(t)
	for _, key := range []string{"all", "eth0"} {
		setSysctl(t, l.pod, "net/ipv4/conf/"+key+"/rp_filter", "0")
		setSysctl(t, l.pod, "net/ipv4/conf/"+key+"/accept_local", "1")
	}
	populate(t, l, f)
	must(t, inside(t, l.peer, func() error {
		return addAddresses("lo", f.source+"/"+map[string]string{"IPv4": "32", "IPv6": "128"}[f.name])
	}))
	b.apply(t, l.pod, podplan.InitArgs{ProxyUID: proxyUID, ExcludeInboundPorts: netset.PortsOf(excludedIn)})
	l.in(f).check(t) // control
	for _, port := range []int{appPort, excludedIn, api.MetricsPort, api.InboundPort} {
		err := inside(t, l.peer, func() error {
			d := net.Dialer{Timeout: 300_000_000, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(parseAddr(f.source), 0))}
			c, err := d.Dial("tcp", hostPort(f.pod, port))
			if err == nil {
				c.Close()
			}
			return err
		})
		if timeout := new(net.OpError); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("port %d: got %v, want no answer", port, err)
		}
	}
	if !slices.Contains(localRoutes(t, l.pod), clientaddr.Default.Of(parseAddr(f.source))) {
		t.Error("the range is not local")
	}
}
