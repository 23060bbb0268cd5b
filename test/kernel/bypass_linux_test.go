package kernel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

// excludedUser may leave the pod without the proxy, as the config of TestBypass says.
const excludedUser = 1001

// TestBypass: whatever a process of a pod does, a server outside of the pod sees the proxy's port and never the
// process's own, while the init container runs again and again too. What the packet filter does with each kind of
// socket is in init/apply (TestBypassOut, TestBypassIn); here are the real init, the real proxy and the rendered
// config.
func TestBypass(t *testing.T) {
	r := startShopIn(t, lab.NewMeshless(t, nil), fmt.Sprintf("  outbound: {excludeUIDs: [%d]}\n", excludedUser), time.Now())
	w := &bypass{running: r, mirror: map[int]netip.AddrPort{}}
	w.mirror[4], w.mirror[6] = w.serve(t, 4), w.serve(t, 6)
	t.Run("every user", w.testUsers)
	t.Run("mesh destinations", w.testMesh)
	t.Run("a port of the proxy's", w.testInherited)
	t.Run("init runs again", w.testAgain)
}

type bypass struct {
	*running
	mirror map[int]netip.AddrPort // a server outside of the mesh that tells the client's port, by family
	ports  atomic.Uint32          // of the clients so far
}

// serve tells each client its port.
func (w *bypass) serve(t *testing.T, family int) netip.AddrPort {
	t.Helper()
	var l net.Listener
	if err := w.out.NS.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(w.out.IP(family), 0).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%d", netip.MustParseAddrPort(c.RemoteAddr().String()).Port())
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); done.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

// seen opens a connection from the pod as a user, and tells whether the server saw the client's own port: then nothing
// stood between. Clients bind to ports below those that the kernel hands out, so that a proxy's is never one of theirs.
func (w *bypass) seen(t *testing.T, p *lab.Pod, uid int, to netip.AddrPort, network string, multipath bool) (own bool, err error) {
	t.Helper()
	port := 16000 + int(w.ports.Add(1))%14000
	var conn net.Conn
	err = p.NS.Do(func() (err error) {
		if _, err := unix.SetfsuidRetUid(uid); err != nil {
			return err
		}
		dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{Port: port}}
		dialer.SetMultipathTCP(multipath)
		conn, err = dialer.Dial(network, to.String())
		return err
	})
	if err != nil {
		return false, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	text, err := io.ReadAll(conn)
	if err == nil && len(text) == 0 {
		err = errors.New("nobody answers")
	}
	return string(text) == fmt.Sprint(port), err
}

func (w *bypass) testUsers(t *testing.T) {
	for family, to := range w.mirror {
		for _, c := range []struct {
			name      string
			uid       int
			multipath bool
			own       bool
		}{
			{"the app", 65534, false, false}, {"the app by multipath TCP", 65534, true, false}, {"root", 0, false, false}, {"another user", 4242, false, false},
			{"the neighbour of the excluded user", excludedUser + 1, false, false},
			{"control: the proxy's user", api.DefaultUID, false, true}, {"the excluded user", excludedUser, false, true},
		} {
			own, err := w.seen(t, w.api, c.uid, to, fmt.Sprint("tcp", family), c.multipath)
			if err != nil || own != c.own {
				t.Errorf("IPv%d, %s: without the proxy: %t (%v), want %t", family, c.name, own, err, c.own)
			}
		}
	}
	own, err := w.seen(t, w.out, 65534, w.mirror[4], "tcp4", false)
	if err != nil || !own {
		t.Errorf("control: a pod outside of the mesh is seen as itself: %t, %v", own, err)
	}
}

// testMesh: to a server of the mesh, the app's connection is mutual TLS, and that of an excluded user plaintext, which
// a Strict server refuses. So an exclusion is a way out, and no way in.
func (w *bypass) testMesh(t *testing.T) {
	for _, family := range []int{4, 6} {
		at := netip.AddrPortFrom(w.db.IP(family), 5432)
		before := w.refusals(t, w.db, "handshake_failed")
		for uid, served := range map[int]bool{65534: true, excludedUser: false} {
			var conn net.Conn
			if err := w.api.NS.Do(func() (err error) {
				if _, err := unix.SetfsuidRetUid(uid); err != nil {
					return err
				}
				conn, err = net.DialTimeout("tcp", at.String(), 5*time.Second)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, err := io.WriteString(conn, "LIST\n")
			answer := make([]byte, 256)
			n, readErr := conn.Read(answer)
			conn.Close()
			if (n > 0) != served {
				t.Errorf("IPv%d, uid %d: %q, %v; want an answer: %t", family, uid, answer[:n], errors.Join(err, readErr), served)
			}
		}
		got := 0
		for deadline := time.Now().Add(5 * time.Second); got != 1 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			// it closes first and counts then
			got = w.refusals(t, w.db, "handshake_failed") - before
		}
		if got != 1 {
			t.Errorf("IPv%d: db refused %d connections without TLS, want the excluded user's", family, got)
		}
	}
}

// testInherited: a server outside of the mesh resets a connection of the proxy, and tells the app from which port it
// came. From that port the app dials the same server. In one zone conntrack would still know what was decided for the
// proxy, and nobody would redirect it; the proxy's connections have one of their own, so it goes through the proxy as
// any other.
func (w *bypass) testInherited(t *testing.T) {
	for _, family := range []int{4, 6} {
		network := fmt.Sprint("tcp", family)
		var l net.Listener
		if err := w.out.NS.Do(func() (err error) {
			l, err = net.Listen(network, netip.AddrPortFrom(w.out.IP(family), 0).String())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		dial := func(port int) (conn net.Conn, err error) {
			err = w.api.NS.Do(func() (err error) {
				if _, err := unix.SetfsuidRetUid(65534); err != nil {
					return err
				}
				dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IP(w.api.IP(family).AsSlice()), Port: port}}
				conn, err = dialer.Dial(network, l.Addr().String())
				return err
			})
			return conn, err
		}
		conn, err := dial(0)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		l.(*net.TCPListener).SetDeadline(time.Now().Add(15 * time.Second))
		// An address without a name near the pod is tried with mutual TLS first; three times closed, it is outside.
		for range 3 {
			if trial, err := l.Accept(); err != nil {
				t.Fatal(err)
			} else {
				trial.Close()
			}
		}
		server, err := l.Accept() // the proxy's
		if err != nil {
			t.Fatal(err)
		}
		port := int(netip.MustParseAddrPort(server.RemoteAddr().String()).Port())
		server.(*net.TCPConn).SetLinger(0)
		server.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("IPv%d: the app read %d bytes, %v; want the server's reset", family, n, err)
		}
		again, err := dial(port)
		for deadline := time.Now().Add(5 * time.Second); errors.Is(err, unix.EADDRINUSE) && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			again, err = dial(port)
		}
		if err != nil {
			t.Errorf("IPv%d: from the proxy's port %d: %v", family, port, err)
			continue
		}
		defer again.Close()
		l.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second))
		second, err := l.Accept()
		if err != nil {
			t.Errorf("IPv%d: the proxy did not pass it on: %v", family, err)
			continue
		}
		defer second.Close()
		if from := netip.MustParseAddrPort(second.RemoteAddr().String()).Port(); int(from) == port {
			t.Errorf("IPv%d: the server saw a connection from port %d that passed the proxy by", family, from)
		}
	}
}

// testAgain runs the init container again in the pod, with the arguments of the manifest, while connections are opened:
// all of them pass the proxy, and what it holds in the end is what it held.
func (w *bypass) testAgain(t *testing.T) {
	var args []string
	for _, c := range w.objects.Workloads["Deployment/acme-shop/acme-api"].Template.Spec.InitContainers {
		if c.Name == api.InitName {
			args = c.Args
		}
	}
	if len(args) == 0 {
		t.Fatal("the rendered api has no init container")
	}
	initAgain := func() (text string, err error) {
		err = w.api.NS.Do(func() error { // never outside of it: it would redirect this machine
			cmd := exec.Command(program.Built(t, "cmd/meshless-init"), args...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			out, err := cmd.CombinedOutput()
			text = string(out)
			return err
		})
		return text, err
	}
	first, err := initAgain()
	if err != nil || !strings.Contains(first, fmt.Sprintf("meta skuid %d return", excludedUser)) {
		t.Fatalf("init: %v\n%s", err, first)
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var opened, escaped atomic.Int64
	for n := range 4 {
		clients.Go(func() {
			family := map[bool]int{true: 4, false: 6}[n%2 == 0]
			for {
				select {
				case <-stop:
					return
				default:
				}
				own, err := w.seen(t, w.api, 65534, w.mirror[family], fmt.Sprint("tcp", family), false)
				if opened.Add(1); err != nil {
					t.Errorf("IPv%d: %v", family, err)
					return
				}
				if own {
					escaped.Add(1)
				}
			}
		})
	}
	for range 40 {
		text, err := initAgain()
		if err != nil || text != first {
			t.Errorf("init: %v\n%s", err, text)
			break
		}
	}
	for deadline := time.Now().Add(10 * time.Second); opened.Load() < 200 && time.Now().Before(deadline) && !t.Failed(); time.Sleep(10 * time.Millisecond) {
		if _, err := initAgain(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	clients.Wait()
	if escaped.Load() > 0 || opened.Load() < 200 {
		t.Errorf("%d of %d connections passed the proxy by, want none of at least 200", escaped.Load(), opened.Load())
	}
}
