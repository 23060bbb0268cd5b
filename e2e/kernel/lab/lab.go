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

// The addresses of the lab. Pods count upwards from 1, Services too.
const (
	podNet4     = "10.42.0."
	podNet6     = "fd42::"
	serviceNet4 = "10.43.0."
	serviceNet6 = "fd43::"
	gateway4    = "169.254.1.1" // of every pod, as Calico has it
	gateway6    = "fe80::1"
)

// The node's own addresses: probes come from them, and the DNS server has one.
var (
	nodeAddrs = []netip.Addr{netip.MustParseAddr("10.42.255.1"), netip.MustParseAddr("fd42::ffff:1")}
	dnsAddr   = netip.MustParseAddr("10.42.255.53")
)

// Image is what a container image is to the lab: one static binary, as in the images of this repository.
type Image struct {
	Binary     string // on this machine
	Entrypoint string // in the container
	UID        int    // USER of the image, for containers that set no runAsUser
}

// Lab is one node.
type Lab struct {
	Node   *Namespace
	tb     testing.TB
	dir    string
	images map[string]Image
	names  *nameServer
	start  chan func() // runs on one thread that outlives every container: their parent-death signal is tied to it

	mu       sync.Mutex
	objects  *Objects
	pods     []*Pod
	services map[string]*serviceState // by namespace/name
	lastPod  int
}

// New makes an empty node; the images are by the names that manifests use. The end of the test ends everything.
func New(tb testing.TB, images map[string]Image) *Lab {
	tb.Helper()
	dir, err := os.MkdirTemp("", "meshless-lab-") // not TempDir: containers' users must be able to pass through it
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		tb.Fatal(err)
	}
	l := &Lab{tb: tb, dir: dir, images: images, start: make(chan func()), objects: &Objects{}, services: map[string]*serviceState{}}
	go func() {
		runtime.LockOSThread()
		for f := range l.start {
			f()
		}
	}()
	tb.Cleanup(l.close)
	if l.Node, err = newNamespace(); err == nil {
		err = l.setUpNode()
	}
	if err == nil {
		l.names, err = newNameServer(l)
	}
	if err != nil {
		tb.Fatalf("lab: %v", err)
	}
	return l
}

func (l *Lab) setUpNode() error {
	for path, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
		"ipv6/conf/default/accept_dad": "0",
	} {
		if err := l.Node.sysctl(path, value); err != nil {
			return fmt.Errorf("sysctl %s: %w", path, err)
		}
	}
	links, err := l.Node.netlink()
	if err != nil {
		return err
	}
	defer links.Close()
	lo, err := links.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, addr := range append([]netip.Addr{dnsAddr}, nodeAddrs...) {
		if err := links.AddrAdd(lo, hostAddr(addr)); err != nil {
			return fmt.Errorf("node address %s: %w", addr, err)
		}
	}
	return nil
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
	close(l.start)
	var err error
	if l.names != nil {
		err = l.names.close()
	}
	if l.Node != nil {
		err = errors.Join(err, l.Node.Close())
	}
	if err := errors.Join(err, os.RemoveAll(l.dir)); err != nil {
		l.tb.Errorf("lab: clean up: %v", err)
	}
}

// connect joins a pod's namespace to the node's: a veth pair, /32 and /128 addresses, and everything through the gateway, so that
// each packet between two pods passes the node.
func (l *Lab) connect(p *Pod, number int) error {
	p.veth = fmt.Sprintf("pod%d", number)
	node, err := l.Node.netlink()
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
