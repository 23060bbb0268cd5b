package apply

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// routeProtocol marks the routes that this package adds, so that a later run finds them. It is no protocol's
// (linux/rtnetlink.h, iproute2's rt_protos).
const routeProtocol = 150

const (
	resolvConf        = "/etc/resolv.conf"
	kubernetesAddress = "KUBERNETES_SERVICE_HOST" // the address of the Kubernetes API, which the kubelet sets
)

// chooseClients completes the command line by the ranges of client addresses that nothing in sight speaks against.
func chooseClients(args podplan.InitArgs) (podplan.InitArgs, error) {
	seen, err := seenNetworks()
	if err != nil {
		return args, err
	}
	args.ClientCIDRs, err = clientaddr.Choose(args.ClientCIDRs, append(seen, args.ExcludeOutboundCIDRs...))
	return args, err
}

// seenNetworks are those that a pod sees: of its addresses, its routes, its name servers and the Kubernetes API. The
// last two are most often Services, so that their network is known, too.
func seenNetworks() (seen []netip.Prefix, err error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, explain("list the addresses of the pod", err)
	}
	for _, a := range addrs {
		seen = append(seen, networkOfIP(a.IPNet), networkOfIP(a.Peer))
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL) // of the table main, where none is ours
	if err != nil {
		return nil, explain("list the routes of the pod", err)
	}
	for _, r := range routes {
		seen = append(seen, networkOfIP(r.Dst))
		if gateway, ok := netip.AddrFromSlice(r.Gw); ok {
			seen = append(seen, single(gateway))
		}
	}
	servers := []string{os.Getenv(kubernetesAddress)}
	data, err := os.ReadFile(resolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("find out the name servers of the pod: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "nameserver" {
			servers = append(servers, words[1])
		}
	}
	for _, server := range servers {
		if addr, err := netip.ParseAddr(server); err == nil {
			seen = append(seen, single(addr))
		}
	}
	return slices.DeleteFunc(seen, func(p netip.Prefix) bool { return !p.IsValid() }), nil
}

func single(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	return netip.PrefixFrom(addr, addr.BitLen())
}

// networkOfIP is the zero Prefix for nil.
func networkOfIP(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}
	}
	p, _ := addr.Unmap().Prefix(ones)
	return p
}

// addClients makes the ranges of client addresses local to the pod, by routes of the kind local: a process binds any
// address of them without a capability, and what is sent there comes back through lo. No interface gets an address, so
// nobody gets one as a source who did not ask for it. Routes of an earlier run to other networks go.
func addClients(want clientaddr.Ranges, ipv6 bool) error {
	lo, err := loopbackUp()
	if err != nil {
		return err
	}
	meant := netset.Prefixes{want.V4}
	if ipv6 {
		meant = append(meant, want.V6)
	}
	if _, err := removeClientRoutes(func(p netip.Prefix) bool { return p.Bits() > 0 && !slices.Contains(meant, p) }); err != nil {
		return err
	}
	for _, p := range meant {
		route := clientRoute(lo, p)
		if err := netlink.RouteReplace(&route); err != nil {
			return explain(fmt.Sprintf("make %s local to the pod, of which the app sees its clients", p), err)
		}
	}
	held, err := clientRoutes()
	if err != nil {
		return err
	}
	for _, p := range meant {
		if !slices.ContainsFunc(held, func(r netlink.Route) bool { return networkOfIP(r.Dst) == p }) {
			return fmt.Errorf("a local route to %s was added, but the pod does not have it", p)
		}
	}
	return nil
}

// loopbackUp is the interface lo, through which a pod reaches its proxy.
func loopbackUp() (netlink.Link, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, explain("find the interface lo", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		return nil, errors.New("the interface lo is down, so the pod cannot reach its proxy: the container runtime's loopback network plugin brings it up")
	}
	return lo, nil
}

func clientRoute(lo netlink.Link, p netip.Prefix) netlink.Route {
	return netlink.Route{LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST, Protocol: routeProtocol,
		Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
}

// clientRoutes are those that addClients has added, in this run or an earlier one.
func clientRoutes() (ours []netlink.Route, err error) {
	families := []int{netlink.FAMILY_V4}
	if ipv6Known() {
		families = append(families, netlink.FAMILY_V6)
	}
	for _, family := range families {
		filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: routeProtocol, Type: unix.RTN_LOCAL}
		for _, filter.Table = range []int{unix.RT_TABLE_LOCAL, rules.TransparentMark} {
			routes, err := netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
			if err != nil && !errors.Is(err, unix.ENOENT) { // a table that is not there
				return nil, explain("list the local routes of the pod", err)
			}
			ours = append(ours, routes...)
		}
	}
	return ours, nil
}

// removeClientRoutes takes out those of our routes that lead to such networks, and says which.
func removeClientRoutes(which func(netip.Prefix) bool) (removed []string, err error) {
	routes, err := clientRoutes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		p := networkOfIP(r.Dst)
		if !which(p) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil {
			return removed, explain(fmt.Sprintf("remove the local route to %s", p), err)
		}
		removed = append(removed, fmt.Sprintf("local route to %s", p))
	}
	return removed, nil
}

// formerSource6 is the address from which the proxies of earlier releases dialed the app over IPv6. Their init gave it
// to lo.
const formerSource6 = "::6"

// removeFormerSource6 takes from lo the address that the init of an earlier release gave it. One that was not added in
// that way is somebody else's.
func removeFormerSource6() (removed []string, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, explain("find the interface lo", err)
	}
	addrs, err := netlink.AddrList(lo, netlink.FAMILY_V6)
	if err != nil {
		return nil, explain("list the addresses of lo", err)
	}
	source := net.ParseIP(formerSource6)
	for _, a := range addrs {
		ones, _ := a.Mask.Size()
		if !a.IP.Equal(source) || ones != 128 || a.PreferedLft != 0 || uint32(a.ValidLft) != math.MaxUint32 {
			continue
		}
		if err := netlink.AddrDel(lo, &a); err != nil {
			return removed, explain(fmt.Sprintf("remove the address %s from lo", source), err)
		}
		removed = append(removed, fmt.Sprintf("address %s from lo", source))
	}
	return removed, nil
}
