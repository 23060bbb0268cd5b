package apply

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// resetPort is where a server resets each connection after its first data.
const resetPort = 7007

// dialAs opens a connection as a user and from a port, also from one that was used a moment ago.
func dialAs(t *testing.T, ns netns.NsHandle, uid int, source string, port int, target string) (c *net.TCPConn, err error) {
	t.Helper()
	err = inside(t, ns, func() error {
		if _, err := unix.SetfsuidRetUid(uid); err != nil {
			return err
		}
		dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source), Port: port}, Control: func(_, _ string, raw syscall.RawConn) (err error) {
			return errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }), err)
		}}
		conn, err := dialer.Dial("tcp", target)
		if err == nil {
			c = conn.(*net.TCPConn)
			t.Cleanup(func() { c.Close() })
			err = c.SetDeadline(time.Now().Add(patience))
		}
		return err
	})
	return c, err
}

// say opens such a connection, writes a line and waits until the other end has answered or reset.
func say(t *testing.T, ns netns.NsHandle, uid int, source string, port int, target, line string) error {
	t.Helper()
	c, err := dialAs(t, ns, uid, source, port, target)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// resetter is a server that takes the first data of each connection and resets it. What it heard comes through the
// channel.
func resetter(t *testing.T, ns netns.NsHandle, address string) (heard chan string) {
	t.Helper()
	var l net.Listener
	must(t, inside(t, ns, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}))
	t.Cleanup(func() { l.Close() })
	heard = make(chan string, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed with the test
			}
			c.SetDeadline(time.Now().Add(patience))
			data := make([]byte, 100)
			n, _ := c.Read(data)
			heard <- string(data[:n])
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	return heard
}

func hears(t *testing.T, heard chan string, want string) {
	t.Helper()
	select {
	case got := <-heard:
		if got != want {
			t.Fatalf("the server heard %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("the server heard nothing, want %q", want)
	}
}

// watch counts the segments that arrive in the namespace by eth0 for a port from a port.
func watch(t *testing.T, ns netns.NsHandle, from, to int) *atomic.Int64 {
	t.Helper()
	var fd int
	must(t, inside(t, ns, func() (err error) {
		all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}), Ifindex: eth0.Index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	}))
	var seen atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-done; unix.Close(fd) })
	go func() {
		defer close(done)
		data := make([]byte, 1<<16)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, _, err := unix.Recvfrom(fd, data, 0)
			if err != nil || n < 40 {
				continue
			}
			tcp := data[40:n]
			if data[0]>>4 == 4 {
				tcp = data[20:n]
			}
			if len(tcp) >= 4 && int(binary.BigEndian.Uint16(tcp)) == from && int(binary.BigEndian.Uint16(tcp[2:])) == to {
				seen.Add(1)
			}
		}
	}()
	return &seen
}

// disarm empties the egress filter, for controls.
func (b testBackend) disarm(t *testing.T, ns netns.NsHandle) {
	t.Helper()
	if b.variant != "" {
		for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
			ipt(t, ns, f.Program("-"+string(b.variant)), "-F", "MESHLESS_GUARD")
		}
		return
	}
	must(t, inside(t, ns, func() error {
		conn := &nftables.Conn{}
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: rules.Table}
		conn.FlushChain(&nftables.Chain{Table: table, Name: rules.EgressFilter})
		return conn.Flush()
	}))
}

// The proxy dials the address that the app dialed. If the server resets that connection, conntrack keeps what was
// decided for it, for ten seconds: the app's next connection from the proxy's port would leave as it is. Without the
// filter it does.
func TestBypassInheritedWayOut(t *testing.T) { forEachFamily(t, testInheritedWayOut) }

func testInheritedWayOut(t *testing.T, b testBackend, f family) {
	l := newLab(t)
	populate(t, l, f)
	heard := resetter(t, l.peer, hostPort(f.any, resetPort))
	target := hostPort(f.foreign, resetPort)
	b.apply(t, l.pod, podplan.InitArgs{ProxyUID: proxyUID})
	inherit := func(port int) (onWire int64, err error) {
		if err := say(t, l.pod, proxyUID, f.pod, port, target, "the proxy"); !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("the proxy got %v, want a reset", err)
		}
		hears(t, heard, "the proxy")
		seen := watch(t, l.peer, port, resetPort)
		err = say(t, l.pod, appUID, f.pod, port, target, "the app")
		time.Sleep(100 * time.Millisecond) // for what is on the wire to be counted
		return seen.Load(), err
	}
	for port := 20000; port < 20003; port++ {
		if onWire, err := inherit(port); onWire != 0 || !isAny(err, unix.ECONNREFUSED, unix.ECONNRESET) {
			t.Errorf("the app got %v, and %d segments came to the server", err, onWire)
		}
	}
	if len(heard) != 0 {
		t.Errorf("the server heard %q", <-heard)
	}
	l.out(f, appUID, "outbound").check(t)
	b.disarm(t, l.pod)
	if onWire, err := inherit(20010); onWire == 0 {
		t.Errorf("the control fails: without the egress filter nothing leaks, and the app got %v", err)
	}
	hears(t, heard, "the app")
}

// The mirror image: the proxy resets a connection of the app, and its own next one from the app's port would be
// redirected to itself.
func TestInheritedRedirect(t *testing.T) { forEachFamily(t, testInheritedRedirect) }

func testInheritedRedirect(t *testing.T, b testBackend, f family) {
	l := newLab(t)
	proxy := resetter(t, l.pod, hostPort(f.loopback, api.OutboundPort))
	server := resetter(t, l.peer, hostPort(f.any, resetPort))
	target := hostPort(f.foreign, resetPort)
	b.apply(t, l.pod, podplan.InitArgs{ProxyUID: proxyUID})
	inherit := func(port int) error {
		if err := say(t, l.pod, appUID, f.pod, port, target, "the app"); !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("the app got %v, want a reset", err)
		}
		hears(t, proxy, "the app")
		return say(t, l.pod, proxyUID, f.pod, port, target, "the proxy")
	}
	if err := inherit(20000); !isAny(err, unix.ECONNREFUSED, unix.ECONNRESET) || len(proxy) != 0 || len(server) != 0 {
		t.Errorf("the proxy got %v, %d connections to itself, %d to the server", err, len(proxy), len(server))
	}
	if err := say(t, l.pod, proxyUID, f.pod, 20001, target, "from another port"); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("from another port the proxy got %v", err)
	}
	hears(t, server, "from another port")
	b.disarm(t, l.pod)
	err := inherit(20010)
	t.Logf("without the egress filter: %v", err)
	hears(t, proxy, "the proxy")
}

// A connection from before the rules ends with them, whether conntrack knew it before, picks it up halfway, or is told
// not to (tcp_loose).
func TestBypassEstablished(t *testing.T) { forEachFamily(t, testEstablished) }

func testEstablished(t *testing.T, b testBackend, f family) {
	t.Run("unknown to conntrack", func(t *testing.T) { testEnds(t, b, f, false, "1") })
	t.Run("never to be known", func(t *testing.T) { testEnds(t, b, f, false, "0") })
	t.Run("known", func(t *testing.T) { testEnds(t, b, f, true, "1") })
}

func testEnds(t *testing.T, b testBackend, f family, tracked bool, loose string) {
	l := newLab(t)
	populate(t, l, f)
	if tracked {
		track(t, l.pod)
	}
	conn, line, err := connect(t, l.pod, appUID, "", hostPort(f.foreign, servicePort))
	if err != nil || !strings.HasPrefix(line, "peer ") {
		t.Fatalf("got %q, %v", line, err)
	}
	b.apply(t, l.pod, podplan.InitArgs{ProxyUID: proxyUID})
	setSysctl(t, l.pod, "net/netfilter/nf_conntrack_tcp_loose", loose)
	goesOn := func() bool {
		must(t, conn.SetDeadline(time.Now().Add(500*time.Millisecond)))
		_, writeErr := io.WriteString(conn, "still there\n")
		echo, err := readLine(conn)
		return writeErr == nil && err == nil && echo == "still there"
	}
	if tracked || loose == "0" { // control: the egress filter is what ends it
		b.disarm(t, l.pod)
		if !goesOn() {
			t.Error("the control fails: it ends without the egress filter")
		}
		b.apply(t, l.pod, podplan.InitArgs{ProxyUID: proxyUID})
	}
	if goesOn() {
		t.Error("it goes on")
	}
	l.out(f, appUID, "outbound").check(t) // the next one is redirected
}

// What was left out and no longer is, is cut by the next run; what passes the proxy stays
// (TestApplyAgainKeepsConnections).
func TestEgressFilterCutsWhatIsNoLongerExcluded(t *testing.T) {
	forEachFamily(t, testNoLongerExcluded)
}

func testNoLongerExcluded(t *testing.T, b testBackend, f family) {
	l := b.lab(t, f, labArgs(t))
	c, line, err := connect(t, l.pod, appUID, "", hostPort(f.foreign, excludedOut))
	if err != nil || !strings.HasPrefix(line, "peer ") {
		t.Fatalf("got %q, %v", line, err)
	}
	echo := func() error {
		if _, err := io.WriteString(c, "still there\n"); err != nil {
			return err
		}
		_, err := readLine(c)
		return err
	}
	b.apply(t, l.pod, labArgs(t))
	if err := echo(); err != nil {
		t.Errorf("after a run that says the same: %v", err)
	}
	b.apply(t, l.pod, podplan.InitArgs{ProxyUID: proxyUID})
	if err := echo(); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("after a run that excludes nothing: %v, want a reset", err)
	}
}

// track makes the namespace's conntrack work, as rules of a CNI plugin would.
func track(t *testing.T, ns netns.NsHandle) {
	t.Helper()
	must(t, inside(t, ns, func() error {
		conn := &nftables.Conn{}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "cni"})
		chain := conn.AddChain(&nftables.Chain{Table: table, Name: "output", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}}})
		return conn.Flush()
	}))
}
