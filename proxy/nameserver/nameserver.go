// Package nameserver answers the DNS queries of a pod without redirect rules. It asks the name servers that the kubelet
// gave to the pod, and passes on what they say, but for names of the mesh: those of Services whose ports the mesh map
// lists lead to loopback addresses of the proxy, and names of the mesh that cannot be led there get SERVFAIL. So an app
// that asks DNS reaches the mesh through the proxy, or not at all.
//
// DNS is not believed about a name of the mesh: wherever it says that the name leads, the app reaches the proxy, which
// takes the name along (package loopback). What has no name of the mesh on the way is DNS's own matter, as it is
// without a mesh.
//
// Every process of the pod may ask, and none gets more than a bounded number of queries under way.
package nameserver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/loopback"
)

// Bounds of what is under way.
const (
	MaxQueries     = 128             // by UDP; those beyond are dropped, and clients ask again
	MaxConnections = 32              // by TCP, with one query of each
	maxQuery       = 4 << 10         // bytes of a query by UDP
	tcpIdle        = 5 * time.Second // for the next query of a connection
	queryTimeout   = 5 * time.Second // of all that one query needs
	serverTimeout  = 2 * time.Second // of one name server
)

// Result is what became of a query, as metrics count it.
type Result string

// The results.
const (
	Led       Result = "mesh"      // the name leads to loopback addresses
	Forwarded Result = "forwarded" // the answer of the pod's name servers, as it is
	Refused   Result = "refused"   // SERVFAIL: a name of the mesh that cannot be led to the proxy
	Failed    Result = "failed"    // SERVFAIL: the pod's name servers do not answer
	Invalid   Result = "invalid"   // no query, or of a kind that is not served
	Dropped   Result = "dropped"   // too many are under way
)

// Results are all results.
var Results = []Result{Led, Forwarded, Refused, Failed, Invalid, Dropped}

// Options are the surroundings of a Server; those up to Lead are required.
type Options struct {
	UDP     net.PacketConn
	TCP     net.Listener
	Servers []netip.AddrPort    // asked in order
	Map     func() *meshmap.Map // in force; nil: none yet, and nothing is answered
	// the loopback address of each target, where the proxy listens on all ports: (*loopback.Table).Lead
	Lead func([]loopback.Target, netset.Ports) ([]netip.Addr, error)

	HasIPv4 func() bool                                                  // whether the pod has an IPv4 address besides loopback ones; default true
	Count   func(Result)                                                 // may be nil
	Refuse  func(name string, err error)                                 // a name of the mesh got SERVFAIL; may be nil
	Now     func() time.Time                                             // default time.Now
	ask     func(context.Context, transport, *dns.Msg) (*dns.Msg, error) // in tests
}

// transport is one name server, by UDP or TCP.
type transport struct {
	network string
	server  netip.AddrPort
}

// Server answers queries. Make it with New.
type Server struct {
	o       Options
	queries listen.Semaphore
	known   facts
	short   shorts
}

// New makes a Server.
func New(o Options) *Server {
	if o.HasIPv4 == nil {
		o.HasIPv4 = func() bool { return true }
	}
	if o.Count == nil {
		o.Count = func(Result) {}
	}
	if o.Refuse == nil {
		o.Refuse = func(string, error) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ask == nil {
		o.ask = exchange
	}
	return &Server{o: o, queries: listen.NewSemaphore(MaxQueries), known: facts{all: map[string]fact{}}}
}

// Serve answers until ctx ends, and closes the sockets then.
func (s *Server) Serve(ctx context.Context) {
	end := context.AfterFunc(ctx, s.Close)
	defer end()
	var all sync.WaitGroup
	all.Go(func() { s.serveUDP(ctx, &all) })
	all.Go(func() { s.serveTCP(ctx, &all) })
	all.Wait()
}

// Close closes the sockets.
func (s *Server) Close() {
	s.o.UDP.Close()
	s.o.TCP.Close()
}

func (s *Server) serveUDP(ctx context.Context, all *sync.WaitGroup) {
	buffer := make([]byte, maxQuery)
	for {
		n, from, err := s.o.UDP.ReadFrom(buffer)
		switch {
		case errors.Is(err, net.ErrClosed) || ctx.Err() != nil:
			return
		case err != nil:
			pause(ctx)
			continue
		case !s.queries.TryAcquire():
			s.o.Count(Dropped)
			continue
		}
		query := append([]byte(nil), buffer[:n]...)
		all.Go(func() {
			defer s.queries.Release()
			if answer := s.answer(ctx, query, true); answer != nil {
				_, _ = s.o.UDP.WriteTo(answer, from)
			}
		})
	}
}

func (s *Server) serveTCP(ctx context.Context, all *sync.WaitGroup) {
	l := netutil.LimitListener(s.o.TCP, MaxConnections)
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed) || ctx.Err() != nil:
			if c != nil {
				c.Close()
			}
			return
		case err != nil:
			pause(ctx)
			continue
		}
		all.Go(func() {
			defer c.Close()
			end := context.AfterFunc(ctx, func() { c.Close() })
			defer end()
			s.serveConn(ctx, c)
		})
	}
}

// pause is for a failure that may last, such as that no descriptor is left.
func pause(ctx context.Context) {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
	}
}

// serveConn answers the queries of a connection one after the other (RFC 7766).
func (s *Server) serveConn(ctx context.Context, c net.Conn) {
	for ctx.Err() == nil {
		_ = c.SetDeadline(time.Now().Add(tcpIdle))
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		query := make([]byte, min(int(binary.BigEndian.Uint16(length[:])), maxQuery+1))
		if len(query) > maxQuery {
			return
		}
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		answer := s.answer(ctx, query, false)
		if answer == nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(tcpIdle))
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}
