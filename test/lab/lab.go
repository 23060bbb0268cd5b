//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The addresses of nodes, which count upwards from 1, and of what is on each.
const (
	nodeNet4 = "10.42.255."
	nodeNet6 = "fd42::ffff:"
	gateway4 = "169.254.1.1" // of every pod, as Calico has it
	gateway6 = "fe80::1"
)

// Image is what a container image is to the lab: one static binary, as in the images of this repository, and what else
// it holds.
type Image struct {
	Binary     string            // on this machine
	Entrypoint string            // in the container
	UID        int               // USER of the image, for containers that set no runAsUser
	Folders    map[string]string // path in the container -> folder on this machine, read-only
}

// Lab is a cluster of one node, or of several (AddNode).
type Lab struct {
	Node   *Node // the first
	tb     testing.TB
	dir    string
	images map[string]Image
	dns    netip.Addr // the name server's, on the first node, in the Service network as in most clusters
	names  *nameServer
	api    *apiServer  // where CoreDNS reads what the cluster holds
	start  chan func() // runs on one thread that outlives every container: their parent-death signal is tied to it

	mu       sync.Mutex
	objects  *Objects
	nodes    []*Node
	pods     []*Pod
	services map[string]*serviceState // by namespace/name
	lastPod  int
	revision int // counts the changes

	network     Network
	coreDNS     string // its path, or ""
	lastService int
}

// New makes an empty node; the images are by the names that manifests use. The end of the test ends everything.
func New(tb testing.TB, images map[string]Image, options ...Option) *Lab {
	tb.Helper()
	dir, err := os.MkdirTemp("", "meshless-lab-") // not TempDir: containers' users must be able to pass through it
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		tb.Fatal(err)
	}
	l := &Lab{tb: tb, dir: dir, images: images, start: make(chan func()), objects: &Objects{}, services: map[string]*serviceState{}, network: DefaultNetwork}
	for _, option := range options {
		option(l)
	}
	go func() {
		runtime.LockOSThread()
		for f := range l.start {
			f()
		}
	}()
	tb.Cleanup(l.close)
	if l.Node, err = newNode(1); err == nil {
		l.nodes = []*Node{l.Node}
		l.dns = after(l.network.Services4, dnsPlace)
		err = l.Node.addAddrs("lo", l.dns, upstreamAddr)
	}
	if err == nil {
		err = l.startNames()
	}
	if err != nil {
		tb.Fatalf("lab: %v", err)
	}
	return l
}

// close ends what the test left, newest first.
func (l *Lab) close() {
	l.mu.Lock()
	pods := l.pods
	l.mu.Unlock()
	for i := len(pods) - 1; i >= 0; i-- {
		pods[i].kill()
		if l.tb.Failed() {
			pods[i].dumpLogs(l.tb)
		}
	}
	err := l.stopNames()
	close(l.start)
	for _, n := range l.nodes {
		err = errors.Join(err, n.Close())
	}
	if err := errors.Join(err, os.RemoveAll(l.dir)); err != nil {
		l.tb.Errorf("lab: clean up: %v", err)
	}
}

// connect joins a pod's namespace to its node's: a veth pair, /32 and /128 addresses, and everything through the
// gateway, so that each packet between two pods passes the node. The other nodes get a route.
func (l *Lab) connect(p *Pod, number int) error {
	p.veth = fmt.Sprintf("pod%d", number)
	for _, n := range l.nodes {
		if n != p.node {
			if err := errors.Join(n.route(p.node, p.IP4), n.route(p.node, p.IP6)); err != nil {
				return err
			}
		}
	}
	node, err := p.node.netlink()
	if err != nil {
		return err
	}
	defer node.Close()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: p.veth, MTU: 1500}, PeerName: "eth0", PeerNamespace: netlink.NsFd(p.NS.handle)}
	if err := node.LinkAdd(pair); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	host, err := node.LinkByName(p.veth)
	if err != nil {
		return err
	}
	inside, err := p.NS.netlink()
	if err != nil {
		return err
	}
	defer inside.Close()
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	index, podIndex := host.Attrs().Index, eth0.Attrs().Index
	v4, v6 := netip.MustParseAddr(gateway4), netip.MustParseAddr(gateway6)
	return errors.Join(
		node.LinkSetUp(host), inside.LinkSetUp(eth0),
		node.AddrAdd(host, hostAddr(v4)), node.AddrAdd(host, linkLocal(v6)),
		inside.AddrAdd(eth0, hostAddr(p.IP4)), inside.AddrAdd(eth0, hostAddr(p.IP6)),
		node.RouteAdd(&netlink.Route{LinkIndex: index, Dst: hostNet(p.IP4), Scope: netlink.SCOPE_LINK}),
		node.RouteAdd(&netlink.Route{LinkIndex: index, Dst: hostNet(p.IP6)}),
		inside.RouteAdd(&netlink.Route{LinkIndex: podIndex, Dst: hostNet(v4), Scope: netlink.SCOPE_LINK}),
		inside.RouteAdd(&netlink.Route{LinkIndex: podIndex, Gw: v4.AsSlice()}),
		inside.RouteAdd(&netlink.Route{LinkIndex: podIndex, Gw: v6.AsSlice()}),
	)
}

func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func hostAddr(a netip.Addr) *netlink.Addr {
	addr := &netlink.Addr{IPNet: hostNet(a)}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return addr
}

func linkLocal(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
}
