package listen_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/listen"
)

// TestWhatLeavesIsMarked: the rules of init know the proxy's connections to peers by their priority, and those to the
// app have none.
func TestWhatLeavesIsMarked(t *testing.T) {
	l := loopback(t)
	dst := listen.AddrPort(l.Addr())
	for name, test := range map[string]struct {
		dialer *net.Dialer
		want   int
	}{
		"to a peer":  {listen.Dialer(time.Second), api.ProxyPriority},
		"to the app": {listen.AppDialer(netip.MustParseAddr("127.6.0.7"), time.Second), 0},
	} {
		c, err := listen.DialTCP(t.Context(), test.dialer, dst)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var got int
		if err := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY) }); err != nil {
			t.Fatal(err)
		}
		if err != nil || got != test.want {
			t.Errorf("%s: priority %d, %v; want %d", name, got, err, test.want)
		}
	}
}
