// Package listen accepts connections within limits and tells where they were going before init redirected them.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// KeepAlive finds peers that are gone: 15 s idle, then 9 probes at 15 s.
var KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 9}

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

// Server accepts from listeners, and holds a permit of each semaphore for every connection. It takes the permits before
// the accept: what finds none waits in the kernel's queue, where it costs nothing.
type Server struct {
	Name            string // label of its goroutines in profiles
	Listeners       []net.Listener
	Connections     Semaphore // of all that are served
	Unauthenticated Semaphore // of those whose peer is not known yet
	// Handle runs in a goroutine of its own. It ends c, perhaps after it has returned.
	Handle  func(ctx context.Context, c *Conn)
	OnError func(error) // an accept failed and is tried again

	active   atomic.Int64
	handlers sync.WaitGroup
}

// Active is the number of connections that have not ended.
func (s *Server) Active() int { return int(s.active.Load()) }

// Conn is an accepted connection, with the permits that it holds.
type Conn struct {
	*net.TCPConn
	server        *Server
	authenticated sync.Once
}

// Authenticated gives the permit for unauthenticated connections back. It may be called often.
func (c *Conn) Authenticated() {
	c.authenticated.Do(c.server.Unauthenticated.Release)
}

// End resets the connection, unless it was closed before, and gives the other permit back. It is called once.
func (c *Conn) End() {
	Reset(c.TCPConn)
	c.Authenticated()
	c.server.Connections.Release()
	c.server.active.Add(-1)
	c.server.handlers.Done()
}

// Serve accepts until stop is closed, which may be nil, or until ctx ends. Then it closes the listeners and waits until
// all connections have ended. Handlers get ctx: stop lets them go on.
func (s *Server) Serve(ctx context.Context, stop <-chan struct{}) {
	accepting, cancel := context.WithCancel(ctx)
	defer cancel()
	var loops sync.WaitGroup
	for _, l := range s.Listeners {
		closeAtEnd := context.AfterFunc(accepting, func() { l.Close() })
		defer closeAtEnd()
		loops.Go(func() {
			// those of connections inherit it
			pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels("meshless", s.Name)))
			s.accept(ctx, accepting, l)
		})
	}
	go func() {
		select {
		case <-stop:
			cancel()
		case <-accepting.Done():
		}
	}()
	loops.Wait()
	s.handlers.Wait()
}

func (s *Server) accept(ctx, accepting context.Context, l net.Listener) {
	wait := time.Duration(0)
	for s.acquire(accepting) {
		c, err := l.Accept()
		if tcp, ok := c.(*net.TCPConn); ok {
			wait = 0
			s.start(ctx, tcp)
			continue
		}
		s.Unauthenticated.Release()
		s.Connections.Release()
		switch {
		case err == nil:
			c.Close()
			continue
		case accepting.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		}
		s.OnError(err)
		wait = min(max(2*wait, 5*time.Millisecond), time.Second) // EMFILE lasts; do not spin
		select {
		case <-time.After(wait):
		case <-accepting.Done():
		}
	}
}

// start serves a connection for which both permits are held.
func (s *Server) start(ctx context.Context, tcp *net.TCPConn) {
	_ = tcp.SetKeepAliveConfig(KeepAlive) // without it the idle timeout still ends the connection
	s.active.Add(1)
	s.handlers.Add(1)
	go s.Handle(ctx, &Conn{TCPConn: tcp, server: s})
}

// acquire takes both permits.
func (s *Server) acquire(ctx context.Context) bool {
	if !s.Connections.Acquire(ctx) {
		return false
	}
	if !s.Unauthenticated.Acquire(ctx) {
		s.Connections.Release()
		return false
	}
	return true
}

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
