//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Node is a machine of the cluster: a network namespace in which its pods' cables end and Services are rules.
type Node struct {
	*Namespace
	number int        // from 1
	ip4    netip.Addr // probes come from these, and hairpin connections seem to
	ip6    netip.Addr
}

// newNode makes a node that knows no other.
func newNode(number int) (*Node, error) {
	namespace, err := newNamespace()
	if err != nil {
		return nil, err
	}
	n := &Node{Namespace: namespace, number: number,
		ip4: netip.MustParseAddr(fmt.Sprint(nodeNet4, number)), ip6: netip.MustParseAddr(fmt.Sprintf("%s%x", nodeNet6, number))}
	if err := n.setUp(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) setUp() error {
	for path, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
		"ipv6/conf/default/accept_dad": "0",
		// A pod that dials its own Service comes back through its own cable; no better way is to be told to it.
		"ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0",
	} {
		if err := n.sysctl(path, value); err != nil {
			return fmt.Errorf("sysctl %s: %w", path, err)
		}
	}
	return n.addAddrs("lo", n.ip4, n.ip6)
}

func (n *Node) addAddrs(device string, addrs ...netip.Addr) error {
	links, err := n.netlink()
	if err != nil {
		return err
	}
	defer links.Close()
	link, err := links.LinkByName(device)
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		if err := links.AddrAdd(link, hostAddr(addr)); err != nil {
			return fmt.Errorf("node address %s: %w", addr, err)
		}
	}
	return nil
}

// IP is the node's address of the family, 4 or 6.
func (n *Node) IP(family int) netip.Addr {
	if family == 4 {
		return n.ip4
	}
	return n.ip6
}

// AddNode adds a node to the cluster, with a cable to every other one. Pods start on it with StartPodOn; Services,
// names and probes work on each node as on the first.
func (l *Lab) AddNode() *Node {
	l.tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := newNode(len(l.nodes) + 1)
	if err != nil {
		l.tb.Fatalf("lab: node: %v", err)
	}
	others := l.nodes
	l.nodes = append(slices.Clone(others), n)
	for _, other := range others {
		if err := cable(other, n); err != nil {
			l.tb.Fatalf("lab: cable between nodes %d and %d: %v", other.number, n.number, err)
		}
		if err := errors.Join(n.route(other, other.ip4), n.route(other, other.ip6), other.route(n, n.ip4), other.route(n, n.ip6)); err != nil {
			l.tb.Fatalf("lab: %v", err)
		}
	}
	err = n.route(l.Node, l.dns)
	for _, p := range l.pods {
		err = errors.Join(err, n.route(p.node, p.IP4), n.route(p.node, p.IP6))
	}
	if err = errors.Join(err, l.syncServices()); err != nil {
		l.tb.Fatalf("lab: node %d: %v", n.number, err)
	}
	return n
}

// cableTo is the name of the device that leads to the other node.
func cableTo(other *Node) string { return fmt.Sprintf("node%d", other.number) }

// cable joins two nodes. IPv6 neighbours are known on their own link only, so each end has a link-local address by the
// node's number.
func cable(a, b *Node) error {
	links, err := a.netlink()
	if err != nil {
		return err
	}
	defer links.Close()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: cableTo(b), MTU: 1500}, PeerName: cableTo(a), PeerNamespace: netlink.NsFd(b.handle)}
	if err := links.LinkAdd(pair); err != nil {
		return err
	}
	for _, end := range []struct{ here, there *Node }{{a, b}, {b, a}} {
		inside, err := end.here.netlink()
		if err != nil {
			return err
		}
		defer inside.Close()
		link, err := inside.LinkByName(cableTo(end.there))
		if err != nil {
			return err
		}
		if err := errors.Join(inside.LinkSetUp(link), inside.AddrAdd(link, linkLocal(end.here.neighbour6()))); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) neighbour6() netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fe80::ffff:%x", n.number))
}

// route leads to an address by way of another node.
func (n *Node) route(via *Node, to netip.Addr) error {
	links, err := n.netlink()
	if err != nil {
		return err
	}
	defer links.Close()
	link, err := links.LinkByName(cableTo(via))
	if err != nil {
		return err
	}
	gateway := via.ip4
	if to.Is6() {
		gateway = via.neighbour6()
	}
	err = links.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: hostNet(to), Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
	if err != nil {
		return fmt.Errorf("node %d: route to %s: %w", n.number, to, err)
	}
	return nil
}
