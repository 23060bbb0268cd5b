package listen_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/proxy/listen"
)

// flaky fails a few times as a process without file descriptors would.
type flaky struct {
	net.Listener
	failures atomic.Int64
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return f.Listener.Accept()
}

func start(t *testing.T, s *listen.Server) (stop func()) {
	t.Helper()
	if err := s.Init(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ctx, nil) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// pool has places for n connections, and a park of as many.
func pool(n int) *budget.Pool { return budget.NewPool(budget.Budget{Connections: n, Park: n}) }

func loopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestAcceptErrorsAreTriedAgain(t *testing.T) {
	l := &flaky{Listener: loopback(t)}
	l.failures.Store(4)
	var reported atomic.Int64
	served := make(chan struct{}, 1)
	start(t, &listen.Server{Listeners: []net.Listener{l}, Pool: pool(1), Handshakes: 1,
		OnError: func(error) { reported.Add(1) },
		Handle:  func(_ context.Context, c *listen.Conn) { c.End(); served <- struct{}{} }})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	select {
	case <-served:
	case <-time.After(5 * time.Second):
		t.Fatal("not served")
	}
	if got := reported.Load(); got != 4 {
		t.Errorf("%d errors reported, want 4", got)
	}
}

func TestOriginalDst(t *testing.T) {
	l := loopback(t)
	defer l.Close()
	accepted := make(chan *net.TCPConn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c.(*net.TCPConn)
		}
	}()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	c := <-accepted
	defer c.Close()
	answer := func(dst string, err error) func(*net.TCPConn) (netip.AddrPort, error) {
		return func(*net.TCPConn) (netip.AddrPort, error) {
			if err != nil {
				return netip.AddrPort{}, err
			}
			return netip.MustParseAddrPort(dst), nil
		}
	}
	for _, bad := range []string{l.Addr().String(), "0.0.0.0:80", "[::]:80", "224.0.0.1:80", "[ff02::1]:80", "10.0.0.1:0"} {
		if got, err := listen.OriginalDst(c, answer(bad, nil)); err == nil {
			t.Errorf("%s is accepted as %s", bad, got)
		}
	}
	if _, err := listen.OriginalDst(c, answer("", errors.New("none"))); err == nil {
		t.Error("a connection that was not redirected is accepted")
	}
	if _, err := listen.OriginalDst(c, listen.KernelOriginalDst); err == nil {
		t.Error("the kernel knows an original destination of a direct connection")
	}
	got, err := listen.OriginalDst(c, answer("[::ffff:10.0.0.1]:80", nil))
	if err != nil || got.String() != "10.0.0.1:80" {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestAppDialer(t *testing.T) {
	l := loopback(t)
	defer l.Close()
	c, err := listen.DialTCP(t.Context(), listen.AppDialer(netip.MustParseAddr("127.0.0.6"), time.Second), listen.AddrPort(l.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := listen.AddrPort(c.LocalAddr()).Addr().String(); got != "127.0.0.6" {
		t.Errorf("dialed from %s", got)
	}
	if d := listen.AppDialer(netip.Addr{}, 0); d.LocalAddr != nil {
		t.Errorf("without an address, the app is dialed from %s", d.LocalAddr)
	}
}

func TestOwnAddresses(t *testing.T) {
	var own listen.OwnAddresses
	for _, addr := range []string{"127.0.0.1", "::1", "127.0.0.6", "192.0.2.1"} {
		if own.Contains(netip.MustParseAddr(addr)) {
			t.Errorf("%s is the pod's", addr)
		}
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		p := netip.MustParsePrefix(a.String())
		var fresh listen.OwnAddresses
		if got := fresh.Contains(p.Addr()); got == p.Addr().IsLoopback() {
			t.Errorf("%s: %t", p.Addr(), got)
		}
	}
}
