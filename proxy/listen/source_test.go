package listen_test

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/netutil"

	"github.com/meshless-dev/meshless/proxy/listen"
)

func TestSourceLimit(t *testing.T) {
	l := listen.NewSourceLimit(2)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1%eth0")
	first, ok := l.Acquire(a)
	second, ok2 := l.Acquire(netip.MustParseAddr("::ffff:10.0.0.1"))
	if !ok || !ok2 {
		t.Fatal("a source does not get its share")
	}
	if _, ok := l.Acquire(a); ok {
		t.Error("a source gets more than its share")
	}
	other, ok := l.Acquire(b)
	if !ok {
		t.Error("one source takes the share of another")
	}
	first()
	first() // counts once
	third, ok := l.Acquire(a)
	if _, more := l.Acquire(a); !ok || more {
		t.Errorf("after one release: a second connection %t, a third %t; want true, false", ok, more)
	}
	for _, release := range []func(){second, third, other} {
		release()
	}
	if got := l.Sources(); got != 0 {
		t.Errorf("%d sources are remembered, want none", got)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if release, ok := l.Acquire(a); ok {
				release()
				release()
			}
		})
	}
	wg.Wait()
	if got := l.Sources(); got != 0 {
		t.Errorf("%d sources are remembered after many at once, want none", got)
	}
}

// from dials addr from the source ip and keeps the connection open until the test ends.
func from(t *testing.T, ip, addr string) (net.Conn, error) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 5 * time.Second}
	c, err := d.Dial("tcp", addr)
	if err == nil {
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	}
	return c, err
}

// wantReset dials addr and wants to be turned away at once, which connect may see already.
func wantReset(t *testing.T, ip, addr, what string) {
	t.Helper()
	c, err := from(t, ip, addr)
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v, want a reset", what, err)
	}
}

func TestLimitSources(t *testing.T) {
	inner := loopback(t)
	l := netutil.LimitListener(listen.LimitSources(inner, 2), 3)
	accepted := make(chan net.Conn, 10)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	addr := l.Addr().String()
	open := func(ip string) net.Conn {
		t.Helper()
		if _, err := from(t, ip, addr); err != nil {
			t.Fatal(err)
		}
		select {
		case c := <-accepted:
			return c
		case <-time.After(5 * time.Second):
			t.Fatalf("connection of %s is not accepted", ip)
			return nil
		}
	}
	first, second := open("127.0.0.21"), open("127.0.0.21")
	for range 5 {
		wantReset(t, "127.0.0.21", addr, "surplus connection")
	}
	third := open("127.0.0.22")
	if got := listen.AddrPort(third.RemoteAddr()).Addr().String(); got != "127.0.0.22" {
		t.Errorf("accepted from %s", got)
	}
	first.Close()
	first.Close() // must not free the share of the second
	fourth := open("127.0.0.21")
	third.Close()
	wantReset(t, "127.0.0.21", addr, "after a connection was closed twice")
	second.Close()
	fourth.Close()
	l.Close()
	if c, more := <-accepted; more {
		t.Errorf("accepted %s too", c.RemoteAddr())
	}
}
