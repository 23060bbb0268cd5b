package sidecar

import (
	"net"
	"net/netip"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/proxy/listen"
)

// TestDefaultsAreAPods: what is not set is what a pod needs, and never the explicit form.
func TestDefaultsAreAPods(t *testing.T) {
	o := Options{}.withDefaults()
	l := mustListen(t, serverIP)
	defer l.Close()
	dial(t, l.Addr().String())
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, original := range map[string]func(*net.TCPConn) (netip.AddrPort, error){"outbound": o.Redirect.Outbound, "inbound": o.Redirect.Inbound} {
		if dst, err := listen.OriginalDst(c.(*net.TCPConn), original); err == nil {
			t.Errorf("%s: a connection that nobody redirected goes to %s", name, dst)
		}
	}
	if o.Redirect.OwnAddress(netip.MustParseAddr("127.0.0.1")) {
		t.Error("ports that the app binds to loopback are not private")
	}
	if o.Directory != api.Directory || o.Redirect.Clients != (clientaddr.Ranges{}) || o.Confine {
		t.Errorf("got %+v", o)
	}
}

// TestNewBindsAllOrNothing: a sidecar that lacks a port must not look alive.
func TestNewBindsAllOrNothing(t *testing.T) {
	noLeaks(t)
	taken, free := mustListen(t, serverIP), mustListen(t, serverIP)
	defer taken.Close()
	free.Close()
	o := testOptions(serverIP, t.TempDir(), netip.AddrPort{})
	o.Addresses.Outbound, o.Addresses.Admin = free.Addr().String(), taken.Addr().String()
	if _, err := New(o); err == nil {
		t.Fatal("a port that is taken is bound")
	}
	l, err := net.Listen("tcp4", free.Addr().String())
	if err != nil {
		t.Fatalf("the others stay bound: %v", err)
	}
	l.Close()
}
