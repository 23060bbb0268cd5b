package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/test/testca"
)

// shortKeepAlive is KeepAlive of package listen, with the kernel's clock made faster.
var shortKeepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}

// TestDeadPeerIsPassedOn: a peer is gone, without a word, while nothing is under way. Keepalive finds that, and the app
// at the other end sees a reset. The peer's cable is the loopback interface of a network namespace.
func TestDeadPeerIsPassedOn(t *testing.T) {
	engine, err := NewEngine(1, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	leaf := testca.New(t, "cluster.local").Issue(t, "spiffe://cluster.local/ns/prod/deployment/web")
	config := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, Certificates: []tls.Certificate{leaf}}
	appTLS, appTLSEnd := connected(t)
	appPlain, appPlainEnd := connected(t)
	ends := make(chan Result, 2)
	inNetworkNamespace(t)
	wire, inner := connected(t)
	_, plain := connected(t)
	for _, c := range []*net.TCPConn{inner, plain} {
		if err := c.SetKeepAliveConfig(shortKeepAlive); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		_ = tls.Client(wire, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}).Handshake()
	}()
	side, _, err := Secure(inner, nil, Server, config, time.Now().Add(10*time.Second), nil)
	if err != nil {
		t.Fatal(err)
	}
	New(side, Plain(appTLSEnd), Options{}).Start(engine, func(r Result) { ends <- r })
	New(Plain(plain), Plain(appPlainEnd), Options{}).Start(engine, func(r Result) { ends <- r })
	setLoopback(t, netlink.LinkSetDown)
	for range 2 {
		select {
		case r := <-ends:
			if !errors.Is(r.Err, unix.ETIMEDOUT) && !errors.Is(r.Err, unix.EHOSTUNREACH) && !errors.Is(r.Err, unix.ENETUNREACH) {
				t.Errorf("ended with %v", r.Err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("a peer that is gone is not found")
		}
	}
	for name, app := range map[string]*net.TCPConn{"with TLS": appTLS, "without TLS": appPlain} {
		_ = app.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := app.Read(make([]byte, 1)); err == nil || err == io.EOF || os.IsTimeout(err) {
			t.Errorf("%s: the app got %v, want a reset", name, err)
		}
	}
}

// connected is a TCP connection in the network namespace of the caller's thread.
func connected(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); other.Close() })
	return c.(*net.TCPConn), other.(*net.TCPConn)
}
