// Package connection leads each accepted connection to where it can be relayed, or refuses it.
//
// Outbound is what the app opens: init redirects it to a loopback listener, or DNS leads it to one by the name of a
// Service of the mesh. It leaves the pod as mutual TLS if its destination is in the mesh. Such a connection is
// encrypted and verified, or closed; nothing that goes wrong makes it plaintext.
//
// Inbound is what arrives at the pod: it reaches the app only after mutual TLS and policy, or as plaintext on ports
// that are Permissive, or as TLS of the app's own on ports that are TLSPassthrough. The app is dialed at the address
// that the peer dialed, so that ports which the app binds to loopback stay private, unless the app is said to listen
// nowhere else.
package connection

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/reason"
	"github.com/meshless-dev/meshless/proxy/registry"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// Deadlines of one connection.
const (
	// HandshakeTimeout is counted from the start of a handshake, and without what it waits for us. A client of which a
	// burst comes has no time to lose either.
	HandshakeTimeout = 10 * time.Second
	// trialTimeout is for a server of which nothing is known.
	trialTimeout = 5 * time.Second
	// queueTimeout is how long a client waits for a server of the mesh, whose proxy lets it wait for its turn.
	queueTimeout = listen.MaxWait + HandshakeTimeout
	// ConnectTimeout leaves time for three SYNs that find a full queue, at 0, 1, 3 and 7 s.
	ConnectTimeout = 10 * time.Second
	resolveTimeout = 10 * time.Second
)

// Config is what both directions need. The fields up to Telemetry are required.
type Config struct {
	Listeners   []net.Listener
	OriginalDst func(*net.TCPConn) (netip.AddrPort, error) // listen.KernelOriginalDst, but in tests
	Current     func() *identity.Snapshot                  // nil before the first good generation
	Registry    *registry.Registry
	Engine      *relay.Engine
	Telemetry   *telemetry.Telemetry
	Limits      *Limits // of both directions; make them once; default: of 256 MiB, and of one direction

	Idle    time.Duration           // as in relay.Options; default none
	Canary  func(*net.TCPConn) bool // whether a connection is the proxy's own proof of the redirect; may be nil
	Records relay.Records           // default relay.Own
	// by which name of the mesh the app has dialed, where it has no redirect rules; outbound alone, and else nil
	Dialed func(*net.TCPConn) (destination.Name, error)
}

// Server serves the connections of one direction. Make it with NewInbound or NewOutbound.
type Server struct {
	Config
	direction reason.Direction
	listen    listen.Server
	gate      relay.Gate // of handshakes
	prepare   func(context.Context, *conn) error
	renewDue  func(context.Context) // outbound alone
}

func (s *Server) init(d reason.Direction, c Config, prepare func(context.Context, *conn) error) error {
	c.Limits = c.Limits.orDefault()
	s.Config, s.direction, s.prepare = c, d, prepare
	s.gate = relay.NewGate(runtime.GOMAXPROCS(0))
	s.listen.Name, s.listen.Listeners, s.listen.OnError = string(d), c.Listeners, c.Telemetry.AcceptFailed
	s.listen.Pool, s.listen.Handshakes = c.Limits.pool, c.Limits.Handshakes
	s.listen.Handle, s.listen.Refuse, s.listen.Intercept = s.handle, s.refuse, c.Canary
	s.listen.Exhausted = func() { s.yield(0, true) }
	c.Telemetry.Limit(d, c.Limits.Connections)
	c.Telemetry.Waiting(d, s.Waiting)
	return s.listen.Init()
}

// yield ends connections of whoever holds most, in favor of somebody who holds so few.
func (s *Server) yield(held int, exhausted bool) {
	if who, n := s.Limits.holders.yield(held, exhausted); n > 0 {
		s.Telemetry.GaveUp(who, n)
	}
}

// Serve accepts until stop is closed, which may be nil, or until ctx ends. It returns when the last connection has
// ended. The end of ctx cancels lookups and dials; connections that carry data are the registry's to end.
func (s *Server) Serve(ctx context.Context, stop <-chan struct{}) {
	if s.renewDue != nil {
		renewing, end := context.WithCancel(ctx)
		var done sync.WaitGroup
		done.Go(func() { s.renewEvery(renewing) })
		defer done.Wait()
		defer end()
	}
	s.listen.Serve(ctx, stop)
}

// Renew makes the renewals that are due now, as Serve does again and again. It returns when they are over.
func (s *Server) Renew(ctx context.Context) {
	if s.renewDue != nil {
		s.renewDue(ctx)
	}
}

// Accepts tells whether connections are taken from the kernel.
func (s *Server) Accepts() bool { return s.listen.Accepts() }

// Add accepts from one more listener, until it or the server ends. False: the server takes no connections any more, and
// l is closed.
func (s *Server) Add(l net.Listener) bool { return s.listen.Add(l) }

// Active is the number of connections that are served now.
func (s *Server) Active() int { return s.listen.Active() }

// Peak is the most that Active was since the last call.
func (s *Server) Peak() int { return s.listen.Peak() }

// Waiting is the number of connections that wait for their turn.
func (s *Server) Waiting() int { return s.listen.Waiting() }

// conn is one accepted connection on its way to the relay.
type conn struct {
	*listen.Conn
	log      *telemetry.Connection
	snapshot *identity.Snapshot // under which it is accepted
	dst      netip.AddrPort
	dialed   destination.Name // how the app has come to dst, as Config.Dialed says
	release  []func()         // called at its end, before the permits of listen.Conn are released

	// Prepare sets these.
	client, server *relay.Side
	prefix         []byte // was read from the client already; goes to the server first
	security       telemetry.Security
	verify         registry.Verify        // whether it would still be accepted
	holders        []string               // whose connection it is
	begin          func() ([]byte, error) // as in relay.Options; may be nil
	ended          func(relay.Result)     // called at the end of a relayed connection; may be nil
}

// handle prepares a connection, and relays it. Done or refused, everything that it holds is given back at its end.
func (s *Server) handle(ctx context.Context, accepted *listen.Conn) {
	c := s.begin(accepted)
	if err := s.prepare(ctx, c); err != nil {
		if countsAsFailure(err) {
			c.Failed()
		}
		if !errors.Is(err, errRenewal) {
			c.log.Refuse(err)
		}
		c.end()
		return
	}
	c.log.Open(c.security)
	session := relay.New(c.client, c.server, relay.Options{Idle: s.Idle, Owner: s.owner(c), Prefix: c.prefix, Begin: c.begin, Received: c.log.Received, Sent: c.log.Sent})
	held := s.Limits.holders.add(session, c.holders...)
	entry := s.Registry.Add(c.snapshot, c.verify, session)
	c.snapshot = nil // its key must not stay in memory for as long as a connection lives
	session.Start(s.Engine, func(r relay.Result) {
		entry.Done()
		s.Limits.holders.remove(held)
		if c.ended != nil {
			c.ended(r)
		}
		c.log.Close(r.Received, r.Sent, ended(r.Err))
		c.end()
	})
}

// owner is whose memory the session holds: that of the peer which has proved who it is, of a stranger's address, or of
// the pod itself.
func (s *Server) owner(c *conn) string {
	if c.log.Peer != "" || s.direction == reason.Outbound {
		return c.log.Peer
	}
	return c.log.Source.Addr().String()
}

func (s *Server) begin(accepted *listen.Conn) *conn {
	return &conn{Conn: accepted, log: s.Telemetry.Begin(s.direction, listen.AddrPort(accepted.RemoteAddr()))}
}

// countsAsFailure tells whether an error says something about who asks: inbound the source, outbound the destination.
func countsAsFailure(err error) bool {
	switch reason.Of(err).Reason {
	case reason.HandshakeFailed, reason.Denied, reason.DetectionFailed, reason.ConnectFailed, reason.ForeignAddress, reason.ReservedPort:
		return true
	}
	return false
}

// refuse ends a connection that is not served.
func (s *Server) refuse(accepted *listen.Conn, why listen.Refusal) {
	c := s.begin(accepted)
	r := reason.ConnectionLimit
	if s.direction == reason.Inbound {
		if why == listen.ParkFull {
			r = reason.SourceLimit
		}
		c.busy()
	}
	c.log.Refuse(reason.New(r, errors.New(string(why))))
	c.end()
}

// internalError is a fatal alert of TLS (RFC 8446, section 6). A proxy that cannot serve now says so by it: a client
// that tries mutual TLS first takes a close without an answer for the sign of a server outside the mesh.
var internalError = []byte{21, 3, 3, 0, 2, 2, 80}

func (c *conn) busy() {
	listen.Discard(c.TCPConn)     // what is closed with something unread is reset
	_, _ = c.Write(internalError) // the socket's buffer is empty, so this does not block
	_ = c.Close()                 // in order, so that it arrives
}

func (c *conn) end() {
	for _, release := range c.release {
		release()
	}
	c.End()
}

// locate finds out where the client wanted to go.
func (s *Server) locate(c *conn) error {
	dst, err := listen.OriginalDst(c.TCPConn, s.OriginalDst)
	if err != nil {
		return reason.New(reason.OriginalDestination, err)
	}
	c.dst, c.log.Destination = dst, dst
	return nil
}

// identify takes the generation of files that is in use now.
func (s *Server) identify(c *conn) error {
	if c.snapshot = s.Current(); c.snapshot == nil {
		return reason.New(reason.NotReady, errors.New("no generation of files was good yet"))
	}
	c.log.Self = c.snapshot.ID.String()
	return nil
}

// plaintext takes what c costs in addition without mutual TLS. It waits for others to end, or to give way: somebody
// holds so few.
func (s *Server) plaintext(ctx context.Context, c *conn, few int) bool {
	const pause, tries = 100 * time.Millisecond, 50
	for range tries {
		if c.More(budget.OfPlaintext) {
			return true
		}
		s.yield(few, false)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// dial connects to where the client wanted to go, or where that is reached. Where descriptors are out it gives others
// up and tries again: the client has its connection, as it sees it.
func (s *Server) dial(ctx context.Context, d *net.Dialer, to netip.AddrPort) (*net.TCPConn, error) {
	const tries = 5
	for try := 1; ; try++ {
		server, err := listen.DialTCP(ctx, d, to)
		switch {
		case err == nil:
			return server, nil
		case try == tries || !listen.Exhausted(err):
			return nil, reason.New(reason.ConnectFailed, err)
		}
		s.yield(0, true)
		select {
		case <-time.After(time.Duration(try) * 100 * time.Millisecond):
		case <-ctx.Done():
			return nil, reason.New(reason.ConnectFailed, err)
		}
	}
}
