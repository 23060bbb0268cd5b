// Package connection leads each accepted connection to where it can be relayed, or refuses it.
//
// Outbound is what the app opens: init redirects it to a loopback listener, and it leaves the pod as mutual TLS if its
// destination is in the mesh. Such a connection is encrypted and verified, or closed; nothing that goes wrong makes it
// plaintext.
//
// Inbound is what arrives at the pod: it reaches the app only after mutual TLS and policy, or as plaintext on ports
// that are Permissive, or as TLS of the app's own on ports that are TLSPassthrough. The app is dialed at the address
// that the peer dialed, never at the loopback address, so that ports which the app binds to loopback stay private.
package connection

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/reason"
	"github.com/meshless-dev/meshless/proxy/registry"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// Deadlines of one connection, and the default limit of connections at once, in each direction.
const (
	HandshakeTimeout = 5 * time.Second // inbound: counted from the accept
	ConnectTimeout   = 5 * time.Second
	resolveTimeout   = 10 * time.Second
	MaxConnections   = 10000
)

// Config is what both directions need. The fields up to Telemetry are required.
type Config struct {
	Listeners   []net.Listener
	OriginalDst func(*net.TCPConn) (netip.AddrPort, error) // listen.KernelOriginalDst, but in tests
	Current     func() *identity.Snapshot                  // nil before the first good generation
	Registry    *registry.Registry
	Engine      *relay.Engine
	Telemetry   *telemetry.Telemetry

	MaxConnections int // default MaxConnections
}

// Server serves the connections of one direction. Make it with NewInbound or NewOutbound.
type Server struct {
	Config
	direction reason.Direction
	listen    listen.Server
	prepare   func(context.Context, *conn) error
}

func (s *Server) init(d reason.Direction, c Config, prepare func(context.Context, *conn) error) {
	c.MaxConnections = cmp.Or(c.MaxConnections, MaxConnections)
	s.Config, s.direction, s.prepare = c, d, prepare
	s.listen = listen.Server{Name: string(d), Listeners: c.Listeners, Connections: listen.NewSemaphore(c.MaxConnections),
		Unauthenticated: listen.NewSemaphore(c.MaxConnections), Handle: s.handle,
		OnError: c.Telemetry.AcceptFailed}
	c.Telemetry.Limit(d, c.MaxConnections)
}

// Serve accepts until stop is closed, which may be nil, or until ctx ends. It returns when the last connection has
// ended. The end of ctx cancels lookups and dials; connections that carry data are the registry's to end.
func (s *Server) Serve(ctx context.Context, stop <-chan struct{}) { s.listen.Serve(ctx, stop) }

// Active is the number of connections that are served now.
func (s *Server) Active() int { return s.listen.Active() }

// conn is one accepted connection on its way to the relay.
type conn struct {
	*listen.Conn
	log      *telemetry.Connection
	snapshot *identity.Snapshot // under which it is accepted
	dst      netip.AddrPort
	release  []func() // called at its end, before the permits of listen.Conn are released

	// Prepare sets these.
	client, server *relay.Side
	prefix         []byte // was read from the client already; goes to the server first
	security       telemetry.Security
	verify         registry.Verify    // whether it would still be accepted
	ended          func(relay.Result) // called at the end of a relayed connection; may be nil
}

// handle prepares a connection, and relays it. Done or refused, everything that it holds is given back at its end.
func (s *Server) handle(ctx context.Context, accepted *listen.Conn) {
	c := &conn{Conn: accepted, log: s.Telemetry.Begin(s.direction, listen.AddrPort(accepted.RemoteAddr()))}
	if err := s.prepare(ctx, c); err != nil {
		c.log.Refuse(err)
		c.end()
		return
	}
	c.log.Open(c.security)
	session := relay.New(c.client, c.server, relay.Options{Prefix: c.prefix, Received: c.log.Received, Sent: c.log.Sent})
	entry := s.Registry.Add(c.snapshot, c.verify, session)
	c.snapshot = nil // its key must not stay in memory for as long as a connection lives
	session.Start(s.Engine, func(r relay.Result) {
		entry.Done()
		if c.ended != nil {
			c.ended(r)
		}
		c.log.Close(r.Received, r.Sent, ended(r.Err))
		c.end()
	})
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

// dial connects to where the client wanted to go.
func (c *conn) dial(ctx context.Context, d *net.Dialer) (*net.TCPConn, error) {
	server, err := listen.DialTCP(ctx, d, c.dst)
	if err != nil {
		return nil, reason.New(reason.ConnectFailed, err)
	}
	return server, nil
}
