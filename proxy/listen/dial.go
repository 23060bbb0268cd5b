package listen

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Dialer dials what is outside the pod.
func Dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: timeout, KeepAliveConfig: KeepAlive, Control: leaving}
}

// Sources are the addresses from which the proxy dials the app: init lets connections from them pass. The zero value
// leaves the choice to the system, for tests.
type Sources struct{ V4, V6 netip.Addr }

// Dialer dials the app at an address of the family of dst.
func (s Sources) Dialer(dst netip.Addr, timeout time.Duration) *net.Dialer {
	d := &net.Dialer{Timeout: timeout, KeepAliveConfig: KeepAlive}
	source := s.V4
	if dst.Unmap().Is6() {
		source = s.V6
	}
	if source.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: source.AsSlice()}
		d.Control = bindLate
	}
	return d
}

// DialTCP dials dst and returns the bare TCP connection.
func DialTCP(ctx context.Context, d *net.Dialer, dst netip.AddrPort) (*net.TCPConn, error) {
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("connection to %s is a %T, not TCP", dst, c)
	}
	return tcp, nil
}

// OwnAddresses knows the pod's addresses. It asks the system again when it does not know one, at most once a second.
// The zero value is ready for use.
type OwnAddresses struct {
	mu    sync.Mutex
	known map[netip.Addr]bool
	asked time.Time
}

// Contains tells whether addr is an address of an interface and no loopback address.
func (o *OwnAddresses) Contains(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if addr.IsLoopback() {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known[addr] || time.Since(o.asked) < time.Second {
		return o.known[addr]
	}
	o.asked = time.Now()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	o.known = map[netip.Addr]bool{}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
			o.known[p.Addr().Unmap()] = true
		}
	}
	return o.known[addr]
}
