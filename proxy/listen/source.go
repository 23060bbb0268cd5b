package listen

import (
	"net"
	"net/netip"
	"sync"
)

// SourceLimit limits how many connections of one source address there are at once. It remembers only addresses that
// have one now, so it is no larger than the limit of all connections together, which its user keeps. Make it with
// NewSourceLimit.
type SourceLimit struct {
	limit int
	mu    sync.Mutex
	held  map[netip.Addr]int
}

// NewSourceLimit allows n connections per address.
func NewSourceLimit(n int) *SourceLimit { return &SourceLimit{limit: n, held: map[netip.Addr]int{}} }

// Acquire counts a connection from addr until release, which may be called often and counts once. It does not wait: ok
// is false when addr has its share already, and release is nil then.
func (l *SourceLimit) Acquire(addr netip.Addr) (release func(), ok bool) {
	addr = addr.Unmap().WithZone("")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[addr] >= l.limit {
		return nil, false
	}
	l.held[addr]++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.held[addr]--; l.held[addr] == 0 {
			delete(l.held, addr)
		}
	}), true
}

// LimitSources accepts from l at most n connections of one source address at once and resets those beyond. A limit of
// all connections together, such as netutil.LimitListener, goes around it.
func LimitSources(l net.Listener, n int) net.Listener {
	return &sourceListener{Listener: l, sources: NewSourceLimit(n)}
}

type sourceListener struct {
	net.Listener
	sources *SourceLimit
}

func (l *sourceListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		release, ok := l.sources.Acquire(AddrPort(c.RemoteAddr()).Addr())
		if ok {
			return &sourceConn{Conn: c, release: release}, nil
		}
		if tcp, isTCP := c.(*net.TCPConn); isTCP {
			Reset(tcp)
		} else {
			_ = c.Close()
		}
	}
}

// sourceConn counts until it is closed.
type sourceConn struct {
	net.Conn
	release func()
}

func (c *sourceConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
