package redirect

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
)

// TestLateArrival: a process that stood still finds the time over and the canary there. That is no missing rule.
func TestLateArrival(t *testing.T) {
	canary := netip.MustParseAddr("127.77.0.1")
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(canary, api.OutboundPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := family{canary: canary, arrivals: make(chan arrival, maxArrivals)}
	c := &Checker{families: []family{f}}
	c.options = Options{Timeout: 100 * time.Millisecond, OriginalDst: func(*net.TCPConn) (netip.AddrPort, error) {
		return netip.AddrPortFrom(canary, api.OutboundPort), nil
	}, Accepts: func() bool { // asked when the time is over
		accepted, err := l.AcceptTCP()
		if err != nil {
			t.Error(err)
			return true
		}
		defer accepted.Close()
		return c.Arrived(accepted)
	}}
	if result, err := c.redirected(t.Context(), f); result != Passed {
		t.Errorf("%s: %v", result, err)
	}
}
