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

// AppDialer dials the app from a client address, which init has made local to the pod. The zero Addr leaves the choice
// to the system, for tests.
func AppDialer(source netip.Addr, timeout time.Duration) *net.Dialer {
	d := &net.Dialer{Timeout: timeout, KeepAliveConfig: KeepAlive}
	if source.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: source.AsSlice()}
		d.Control = bindClient
	}
	return d
}

// TransparentDialer dials the app from the client's own address, which is not the pod's. Init lets such a socket have
// it and brings the answers back; it knows the socket by its priority, as it does those that leave the pod, so that
// conntrack does not take the connection for the client's own.
func TransparentDialer(client netip.Addr, timeout time.Duration) *net.Dialer {
	d := AppDialer(client, timeout)
	d.Control = bindForeign
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
	addresses, err := interfaceAddresses()
	if err != nil {
		return false
	}
	o.known = map[netip.Addr]bool{}
	for _, a := range addresses {
		o.known[a] = true
	}
	return o.known[addr]
}

// interfaceAddresses are the pod's own addresses but for loopback ones. Client addresses are of no interface.
func interfaceAddresses() (own []netip.Addr, err error) {
	addresses, err := net.InterfaceAddrs()
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
			own = append(own, p.Addr().Unmap())
		}
	}
	return own, err
}
