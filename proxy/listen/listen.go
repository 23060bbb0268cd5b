// Package listen accepts connections within limits and tells where they were going before init redirected them.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// KeepAlive finds peers that are gone within two minutes: 15 s idle, then 6 probes at 15 s. No other limit does, since
// a connection that is idle is none that is over.
var KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 6}

// Semaphore limits how many things run at once.
type Semaphore chan struct{}

// NewSemaphore has n permits.
func NewSemaphore(n int) Semaphore { return make(Semaphore, n) }

// Acquire waits for a permit; it is false when ctx ends first.
func (s Semaphore) Acquire(ctx context.Context) bool {
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// TryAcquire takes a permit if one is free.
func (s Semaphore) TryAcquire() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

// Release gives a permit back.
func (s Semaphore) Release() { <-s }

// Bind listens at host:port. The host "localhost" is 127.0.0.1 and, where the system has it, ::1. No host is all
// addresses: one dual-stack socket, or an IPv4 one where IPv6 is off.
func Bind(address string) ([]net.Listener, error) {
	// Go's default since 1.24, Multipath TCP, has neither SO_ORIGINAL_DST nor splice(2).
	c := net.ListenConfig{KeepAliveConfig: KeepAlive}
	c.SetMultipathTCP(false)
	ctx := context.Background()
	port, loopback := strings.CutPrefix(address, "localhost:")
	if loopback {
		address = "127.0.0.1:" + port
	}
	l, err := c.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if !loopback {
		return []net.Listener{l}, nil
	}
	v6, err := c.Listen(ctx, "tcp6", "[::1]:"+port)
	switch {
	case errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EPROTONOSUPPORT):
		return []net.Listener{l}, nil
	case err != nil:
		l.Close()
		return nil, err
	}
	return []net.Listener{l, v6}, nil
}

// AddrPort is the address of a TCP connection's end, with IPv4 addresses in their own form.
func AddrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// OriginalDst is where the client of c wanted to go before init redirected it. Ask is KernelOriginalDst, but in tests.
// It is an error when that is unknown, and when c came to our own listener directly: such a connection has no
// destination, and dialing it would loop.
func OriginalDst(c *net.TCPConn, ask func(*net.TCPConn) (netip.AddrPort, error)) (netip.AddrPort, error) {
	dst, err := ask(c)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination is unknown, was the connection redirected by meshless-init? %w", err)
	}
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	switch addr := dst.Addr(); {
	case dst == AddrPort(c.LocalAddr()):
		return netip.AddrPort{}, fmt.Errorf("connection was made to the proxy's own port %d directly", dst.Port())
	case !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || dst.Port() == 0:
		return netip.AddrPort{}, fmt.Errorf("original destination %s is no address of a peer", dst)
	}
	return dst, nil
}

// Reset closes c so that the other side sees an error, not the orderly end of a connection.
func Reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// Discard reads what has arrived, a hello of TLS at most, and does not wait for more.
func Discard(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	var hello [4 << 10]byte
	_ = raw.Read(func(fd uintptr) bool {
		_, _ = syscall.Read(int(fd), hello[:])
		return true
	})
}
