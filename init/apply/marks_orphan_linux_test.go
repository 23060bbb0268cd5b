package apply

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
)

func control(t *testing.T, c *net.TCPConn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	must(t, err)
	must(t, errors.Join(raw.Control(func(fd uintptr) { err = f(int(fd)) }), err))
}

func prioritize(t *testing.T, c *net.TCPConn, priority int) {
	t.Helper()
	control(t, c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, priority) })
}

// dialMarked opens a connection as a user, from a port if that is not 0, with a priority from its first packet on.
func dialMarked(t *testing.T, ns netns.NsHandle, uid, priority int, source string, port int, target string) (c *net.TCPConn, err error) {
	t.Helper()
	err = inside(t, ns, func() error {
		if _, err := unix.SetfsuidRetUid(uid); err != nil {
			return err
		}
		dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source), Port: port}, Control: func(_, _ string, raw syscall.RawConn) (err error) {
			return errors.Join(raw.Control(func(fd uintptr) {
				err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, priority))
			}), err)
		}}
		conn, err := dialer.Dial("tcp", target)
		if err == nil {
			c = conn.(*net.TCPConn)
			t.Cleanup(func() { c.Close() })
			err = c.SetDeadline(time.Now().Add(2 * patience))
		}
		return err
	})
	return c, err
}

// TestMarkedOrphansDrain: what a process has written arrives, although it has closed the socket before, whatever
// priority the socket had, or got in the last moment. The packets then have no owner, and those of an app with the
// proxy's priority look like the proxy's.
func TestMarkedOrphansDrain(t *testing.T) {
	forEachFamily(t, func(t *testing.T, b testBackend, f family) {
		l := newLab(t)
		b.apply(t, l.pod, labArgs(t))
		outbound, peer := hostPort(f.loopback, api.OutboundPort), hostPort(f.any, excludedOut)
		for _, c := range []struct {
			name        string
			uid         int
			target      string
			at          netns.NsHandle
			listen      string
			first, last int // priorities
		}{
			{"the proxy", proxyUID, hostPort(f.foreign, servicePort), l.peer, hostPort(f.any, servicePort), api.ProxyPriority, api.ProxyPriority},
			{"redirected, as the proxy", appUID, hostPort(f.foreign, servicePort), l.pod, outbound, api.ProxyPriority, api.ProxyPriority},
			{"redirected, as the proxy in the end", appUID, hostPort(f.foreign, servicePort), l.pod, outbound, 0, api.ProxyPriority},
			{"redirected, as the proxy until then", appUID, hostPort(f.foreign, servicePort), l.pod, outbound, api.ProxyPriority, 0},
			{"redirected, as OpenSSH", appUID, hostPort(f.foreign, servicePort), l.pod, outbound, 4, 0},
			{"redirected, as OpenSSH backwards", appUID, hostPort(f.foreign, servicePort), l.pod, outbound, 0, 4},
			{"excluded, as the proxy", appUID, hostPort(f.foreign, excludedOut), l.peer, peer, api.ProxyPriority, api.ProxyPriority},
			{"excluded, as the proxy in the end", appUID, hostPort(f.foreign, excludedOut), l.peer, peer, 0, api.ProxyPriority},
		} {
			for _, half := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, half: %t", c.name, half), func(t *testing.T) {
					accepted := acceptOne(t, c.at, c.listen)
					writer, err := dialMarked(t, l.pod, c.uid, c.first, "", 0, c.target)
					must(t, err)
					reader := <-accepted
					drainAfter(t, writer, reader, half, func() { prioritize(t, writer, c.last) })
				})
			}
		}
	})
}

// TestMarkedTimeWait: an app that has closed its socket acknowledges the end of the other side, with any priority. The
// socket has no owner then.
func TestMarkedTimeWait(t *testing.T) {
	forEachFamily(t, func(t *testing.T, b testBackend, f family) {
		l := newLab(t)
		b.apply(t, l.pod, labArgs(t))
		for priority := range 7 {
			accepted := acceptOne(t, l.pod, hostPort(f.loopback, api.OutboundPort))
			client, err := dialMarked(t, l.pod, appUID, 0, "", 0, hostPort(f.foreign, servicePort))
			must(t, err)
			server := <-accepted
			prioritize(t, client, priority)
			must(t, client.Close())
			if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Fatalf("priority %d: the server got %v, want the end", priority, err)
			}
			must(t, server.CloseWrite())
			state := func() (state uint8) {
				control(t, server, func(fd int) error {
					info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
					state = info.State
					return err
				})
				return state
			}
			const closed = 7
			for deadline := time.Now().Add(patience); state() != closed && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			}
			if got := state(); got != closed {
				t.Errorf("priority %d: the server's end is not acknowledged, it is in state %d", priority, got)
			}
			server.Close()
		}
	})
}

// proxyIsReset makes a connection of the proxy from a port, which the server resets.
func proxyIsReset(t *testing.T, l lab, f family, port int, target string, heard chan string) {
	t.Helper()
	proxy, err := dialMarked(t, l.pod, proxyUID, api.ProxyPriority, f.pod, port, target)
	must(t, err)
	_, err = io.WriteString(proxy, "the proxy")
	must(t, err)
	if _, err := proxy.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("the proxy got %v, want a reset", err)
	}
	hears(t, heard, "the proxy")
}

// TestMarkedInheritsNothing: a server resets a connection of the proxy, and an app's next one has the same addresses
// and port. With the zone the app's is redirected as any other, whatever priority it has, and the egress filter has
// nothing to refuse; without, it is refused.
func TestMarkedInheritsNothing(t *testing.T) {
	forEachFamily(t, func(t *testing.T, b testBackend, f family) {
		l := newLab(t)
		populate(t, l, f)
		heard := resetter(t, l.peer, hostPort(f.any, resetPort))
		target := hostPort(f.foreign, resetPort)
		b.apply(t, l.pod, labArgs(t))
		for priority := range 7 {
			port := 20000 + priority
			proxyIsReset(t, l, f, port, target, heard)
			seen := watch(t, l.peer, port, resetPort)
			app, err := dialMarked(t, l.pod, appUID, priority, f.pod, port, target)
			if b.variant != "" {
				if !isAny(err, unix.ECONNREFUSED, unix.ECONNRESET) {
					t.Errorf("priority %d: the app got %v, want a refusal", priority, err)
				}
			} else if err != nil {
				t.Errorf("priority %d: %v", priority, err)
			} else if line, err := readLine(app); err != nil || !strings.HasPrefix(line, "outbound ") {
				t.Errorf("priority %d: the app got %q, %v, want the outbound proxy", priority, line, err)
			}
			if seen.Load() != 0 || len(heard) != 0 {
				t.Errorf("priority %d: %d segments came to the server", priority, seen.Load())
			}
		}
	})
}

// TestOldProxy: sockets of a proxy of the releases before, which have priority 4, leave the pod, and end in order.
func TestOldProxy(t *testing.T) {
	forEachFamily(t, func(t *testing.T, b testBackend, f family) {
		l := newLab(t)
		b.apply(t, l.pod, labArgs(t))
		for _, half := range []bool{false, true} {
			accepted := acceptOne(t, l.peer, hostPort(f.any, servicePort))
			writer, err := dialMarked(t, l.pod, proxyUID, 4, "", 0, hostPort(f.foreign, servicePort))
			must(t, err)
			drainAfter(t, writer, <-accepted, half, func() {})
		}
	})
}

// TestMarkedOrphanMeetsStaleEntry: the connection of an app that is closed with data to send, and looks like the proxy,
// has the addresses and ports of one of the proxy's that was reset a moment ago. Nothing of it leaves past the proxy,
// and when the stale entry is gone, the data arrives.
func TestMarkedOrphanMeetsStaleEntry(t *testing.T) {
	forEachFamily(t, func(t *testing.T, b testBackend, f family) {
		l := newLab(t)
		heard := resetter(t, l.peer, hostPort(f.any, resetPort))
		target := hostPort(f.foreign, resetPort)
		b.apply(t, l.pod, labArgs(t))
		const port = 20000
		setSysctl(t, l.pod, "net/netfilter/nf_conntrack_tcp_timeout_close", "1")
		proxyIsReset(t, l, f, port, target, heard)
		if b.variant != "" {
			return // there the app's connection is refused: TestMarkedInheritsNothing
		}
		seen := watch(t, l.peer, port, resetPort)
		accepted := acceptOne(t, l.pod, hostPort(f.loopback, api.OutboundPort))
		writer, err := dialMarked(t, l.pod, appUID, 0, f.pod, port, target)
		must(t, err)
		reader := <-accepted
		must(t, reader.SetDeadline(time.Now().Add(time.Minute))) // each retransmission waits twice as long
		drainAfter(t, writer, reader, false, func() { prioritize(t, writer, api.ProxyPriority) })
		if n := seen.Load(); n != 0 {
			t.Errorf("%d segments left past the proxy", n)
		}
	})
}
