package apply

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/program"
)

// The addresses of the laboratory: a pod and a peer, joined by a veth pair. foreign is a network that the pod reaches
// through the peer, as it reaches a Service; so is excluded, which the rules except.
const (
	pod4, pod6           = "10.77.0.2", "fd77::2"
	peer4, peer6         = "10.77.0.1", "fd77::1"
	foreign4, foreign6   = "10.88.0.1", "fd88::1"
	excluded4, excluded6 = "10.99.0.1", "fd99::1"
)

const (
	appUID   = 1000
	proxyUID = api.DefaultUID
	patience = 3 * time.Second
)

// requireRoot skips a test that makes network namespaces; in CI that is a failure, so that the skip cannot hide there.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	program.Missing(t, "root to make network namespaces: sudo -E go test ./init/...")
}

// inside runs f on a thread of its own in the namespace. What f opens stays there; the thread ends with f.
func inside(t *testing.T, ns netns.NsHandle, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: Go then ends the thread instead of using it again
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newNetns makes a network namespace with lo up, as a container runtime hands it over. It ends with the test.
func newNetns(t *testing.T) netns.NsHandle {
	t.Helper()
	requireRoot(t)
	var ns netns.NsHandle
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var err error
		ns, err = netns.New()
		done <- err
	}()
	must(t, <-done)
	t.Cleanup(func() { ns.Close() })
	must(t, inside(t, ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	return ns
}

// lab is a pod and a peer. The pod's default route leads to the peer, which owns the foreign and the excluded
// addresses.
type lab struct{ pod, peer netns.NsHandle }

func newLab(t *testing.T) lab {
	t.Helper()
	l := lab{pod: newNetns(t), peer: newNetns(t)}
	for _, ns := range []netns.NsHandle{l.pod, l.peer} {
		// or neighbours would wait seconds for their link-local addresses
		setSysctl(t, ns, "net/ipv6/conf/all/accept_dad", "0")
		setSysctl(t, ns, "net/ipv6/conf/default/accept_dad", "0")
	}
	must(t, inside(t, l.pod, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(l.peer)})
	}))
	must(t, inside(t, l.peer, func() error {
		if err := addAddresses("lo", foreign4+"/32", foreign6+"/128", excluded4+"/32", excluded6+"/128"); err != nil {
			return err
		}
		return addAddresses("eth0", peer4+"/24", peer6+"/64")
	}))
	must(t, inside(t, l.pod, func() error {
		if err := addAddresses("eth0", pod4+"/24", pod6+"/64"); err != nil {
			return err
		}
		return addRoutes(peer4+" 0.0.0.0/0", peer6+" ::/0")
	}))
	for address, ns := range map[string]netns.NsHandle{pod6: l.pod, peer6: l.peer} {
		must(t, inside(t, ns, func() error { return awaitLocal(address) }))
	}
	return l
}

// awaitLocal waits until the kernel knows the address as its own. It does so a moment after the address was added, and
// until then looks for it on the wire.
func awaitLocal(address string) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		routes, err := netlink.RouteGet(net.ParseIP(address))
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not become local: %v, %w", address, routes, err)
		}
	}
}

func addAddresses(device string, addresses ...string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD // or IPv6 would wait a second for duplicates
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s on %s: %w", a, device, err)
		}
	}
	return nil
}

// addRoutes adds routes written "gateway network".
func addRoutes(routes ...string) error {
	for _, r := range routes {
		gateway, network, _ := strings.Cut(r, " ")
		_, dst, err := net.ParseCIDR(network)
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(gateway)}); err != nil {
			return fmt.Errorf("route %s: %w", r, err)
		}
	}
	return nil
}

func setSysctl(t *testing.T, ns netns.NsHandle, name, value string) {
	t.Helper()
	must(t, inside(t, ns, func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644) }))
}

// serve answers each connection to address with "name original-destination client", then echoes.
func serve(t *testing.T, ns netns.NsHandle, address, name string) {
	t.Helper()
	var l net.Listener
	must(t, inside(t, ns, func() (err error) {
		network := "tcp4"
		if netip.MustParseAddrPort(address).Addr().Is6() {
			network = "tcp6"
		}
		l, err = net.Listen(network, address)
		return err
	}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed with the test
			}
			go answer(c.(*net.TCPConn), name)
		}
	}()
}

func answer(c *net.TCPConn, name string) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	client, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	fmt.Fprintf(c, "%s %s %s\n", name, originalDestination(c), client)
	io.Copy(c, c)
}

// originalDestination asks conntrack where the client meant to go, as the proxy does (SO_ORIGINAL_DST, in both families
// 80).
func originalDestination(c *net.TCPConn) string {
	const soOriginalDst = 80
	raw, err := c.SyscallConn()
	if err != nil {
		return err.Error()
	}
	result := ""
	controlErr := raw.Control(func(fd uintptr) {
		if c.LocalAddr().(*net.TCPAddr).IP.To4() != nil {
			// 16 bytes or more: holds a sockaddr_in
			m, err := unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, soOriginalDst)
			if err != nil {
				result = err.Error()
				return
			}
			b := m.Multiaddr
			result = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3])).String()
			return
		}
		m, err := unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, soOriginalDst) // begins with a sockaddr_in6
		if err != nil {
			result = err.Error()
			return
		}
		result = netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr), m.Addr.Port>>8|m.Addr.Port<<8).String()
	})
	if controlErr != nil {
		return controlErr.Error()
	}
	return result
}

// connect opens a connection as a user, from a source address if that is not empty, and returns it with the server's
// first line.
func connect(t *testing.T, ns netns.NsHandle, uid int, source, target string) (net.Conn, string, error) {
	t.Helper()
	var c net.Conn
	err := inside(t, ns, func() (err error) {
		if _, err := unix.SetfsuidRetUid(uid); err != nil { // the packet filter sees the user who opened the socket
			return err
		}
		dialer := net.Dialer{Timeout: patience}
		if source != "" {
			dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
			dialer.Control = func(_, _ string, c syscall.RawConn) error { // as the proxy does
				return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1) })
			}
		}
		c, err = dialer.Dial("tcp", target)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	line, err := readLine(c)
	return c, line, err
}

// readLine reads byte by byte, so that nothing behind the line is swallowed.
func readLine(r io.Reader) (string, error) {
	var line strings.Builder
	b := make([]byte, 1)
	for line.Len() < 1024 {
		if _, err := io.ReadFull(r, b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return line.String(), nil
		}
		line.WriteByte(b[0])
	}
	return "", fmt.Errorf("line without end")
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
