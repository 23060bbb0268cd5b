// Package listen accepts connections within limits and tells where they were going before init redirected them.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/pprof"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// KeepAlive finds peers that vanished: 15 s idle, then 9 probes at 15 s.
var KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 9}

// Slots limits how many things run at once.
type Slots chan struct{}

// NewSlots makes n slots.
func NewSlots(n int) Slots { return make(Slots, n) }

// Acquire waits for a slot; it is false when ctx ends first.
func (s Slots) Acquire(ctx context.Context) bool {
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// Try takes a slot if one is free.
func (s Slots) Try() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

// Release frees a slot.
func (s Slots) Release() { <-s }

// Server accepts from listeners.
type Server struct {
	Name      string // label of its goroutines in profiles
	Listeners []net.Listener
	Slots     []Slots // one of each is acquired before every accept
	// runs in a goroutine of its own; closes c, and ends held then, perhaps after it has returned
	Handle  func(c *net.TCPConn, held *Held)
	OnError func(error) // an accept failed and is tried again

	active atomic.Int64
}

// Active is the number of connections that have not ended.
func (s *Server) Active() int { return int(s.active.Load()) }

// Held is the place that a connection takes: its slots, each of which is released once, at the latest by End.
type Held struct {
	slots []Slots
	once  []sync.Once
	end   func()
}

// Release frees the slot of Server.Slots[i] before the connection ends.
func (h *Held) Release(i int) { h.once[i].Do(h.slots[i].Release) }

// End is called once, when the connection has ended.
func (h *Held) End() {
	h.releaseAll()
	h.end()
}

func (h *Held) releaseAll() {
	for i := range h.slots {
		h.Release(i)
	}
}

// Serve accepts until ctx ends, then closes the listeners and waits until all connections have ended. A slot is taken
// before the accept: what finds no slot waits in the kernel's queue, where it costs nothing.
func (s *Server) Serve(ctx context.Context) {
	var loops, handlers sync.WaitGroup
	for _, l := range s.Listeners {
		stop := context.AfterFunc(ctx, func() { l.Close() })
		defer stop()
		loops.Go(func() { s.accept(ctx, l, &handlers) })
	}
	loops.Wait()
	handlers.Wait()
}

func (s *Server) accept(ctx context.Context, l net.Listener, handlers *sync.WaitGroup) {
	pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels("meshless", s.Name))) // those of connections inherit it
	wait := time.Duration(0)
	for {
		held, ok := s.acquire(ctx)
		if !ok {
			return
		}
		c, err := l.Accept()
		if err != nil {
			held.releaseAll()
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.OnError(err)
			wait = min(max(2*wait, 5*time.Millisecond), time.Second) // EMFILE lasts; do not spin
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
			continue
		}
		wait = 0
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			c.Close()
			held.releaseAll()
			continue
		}
		_ = tcp.SetKeepAliveConfig(KeepAlive) // without it the idle timeout still ends the connection
		s.active.Add(1)
		handlers.Add(1)
		held.end = func() {
			s.active.Add(-1)
			handlers.Done()
		}
		go s.Handle(tcp, held)
	}
}

func (s *Server) acquire(ctx context.Context) (*Held, bool) {
	held := &Held{once: make([]sync.Once, len(s.Slots))}
	for _, slots := range s.Slots {
		if !slots.Acquire(ctx) {
			held.releaseAll()
			return nil, false
		}
		held.slots = append(held.slots, slots)
	}
	return held, true
}

// config makes plain TCP sockets. Go's default since 1.24, Multipath TCP, has neither SO_ORIGINAL_DST nor splice(2).
func config() *net.ListenConfig {
	c := &net.ListenConfig{KeepAliveConfig: KeepAlive}
	c.SetMultipathTCP(false)
	return c
}

// Loopback binds port on 127.0.0.1 and, where the system has it, on ::1.
func Loopback(port int) ([]net.Listener, error) {
	ctx := context.Background()
	v4, err := config().Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	v6, err := config().Listen(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(port)))
	if noIPv6(err) {
		return []net.Listener{v4}, nil
	}
	if err != nil {
		v4.Close()
		return nil, err
	}
	return []net.Listener{v4, v6}, nil
}

// Everywhere binds port on all addresses: one dual-stack socket, or an IPv4 one where IPv6 is off.
func Everywhere(port int) (net.Listener, error) {
	ctx := context.Background()
	l, err := config().Listen(ctx, "tcp", net.JoinHostPort("::", strconv.Itoa(port)))
	if noIPv6(err) {
		return config().Listen(ctx, "tcp4", net.JoinHostPort("0.0.0.0", strconv.Itoa(port)))
	}
	return l, err
}

func noIPv6(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EPROTONOSUPPORT)
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

// Redirected returns the destination that the opener of c had dialed, by original. It is an error when that is unknown,
// and when c came to our own listener directly: such a connection has no destination, and dialing it would loop.
func Redirected(c *net.TCPConn, original func(*net.TCPConn) (netip.AddrPort, error)) (netip.AddrPort, error) {
	dst, err := original(c)
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
