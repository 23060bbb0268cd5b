// Package outbound serves what the app opens: init redirects it to a loopback listener, and it leaves the pod as mutual
// TLS if its destination is in the mesh. A connection to the mesh is encrypted and verified, or closed; nothing that
// goes wrong makes it plaintext.
package outbound

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/live"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// Deadlines of one connection.
const (
	ConnectTimeout   = 5 * time.Second
	HandshakeTimeout = 5 * time.Second
	resolveTimeout   = 10 * time.Second
)

// MaxConnections is the default limit of connections at once.
const MaxConnections = 10000

// Config is what a Server needs; the fields up to Telemetry are required; Engine may be set until Serve.
type Config struct {
	Listeners []net.Listener
	Original  func(*net.TCPConn) (netip.AddrPort, error) // listen.Original, but in tests
	Current   func() *identity.Snapshot                  // nil before the first good generation
	Resolver  *destination.Resolver
	Live      *live.Registry
	Engine    *relay.Engine
	Telemetry *telemetry.Telemetry

	MaxConnections int           // default MaxConnections
	Idle           time.Duration // default of package relay
}

// Server serves outbound connections. Make it with New.
type Server struct {
	Config
	listen listen.Server
}

// New makes a server.
func New(c Config) *Server {
	if c.MaxConnections <= 0 {
		c.MaxConnections = MaxConnections
	}
	s := &Server{Config: c}
	s.listen = listen.Server{Name: string(telemetry.Outbound), Listeners: c.Listeners, Slots: []listen.Slots{listen.NewSlots(c.MaxConnections)}, Handle: s.handle,
		OnError: c.Telemetry.AcceptFailed}
	c.Telemetry.Limit(telemetry.Outbound, c.MaxConnections)
	return s
}

// Serve accepts until ctx ends and returns when the last connection has ended.
func (s *Server) Serve(ctx context.Context) { s.listen.Serve(ctx) }

// Active is the number of connections that are served now.
func (s *Server) Active() int { return s.listen.Active() }

func (s *Server) handle(app *net.TCPConn, held *listen.Held) {
	end := func() {
		listen.Reset(app) // does nothing after an orderly end
		held.End()
	}
	record := s.Telemetry.Begin(telemetry.Outbound, listen.AddrPort(app.RemoteAddr()))
	carried, refusal := s.prepare(app, record)
	if refusal != nil {
		record.Refuse(refusal.Reason, refusal.Err)
	}
	if carried == nil {
		end()
		return
	}
	carried.Start(s.Engine, end)
}

// prepare leads a connection to where it can be relayed. Where it returns neither that nor a refusal, the failure is
// recorded already.
func (s *Server) prepare(app *net.TCPConn, record *telemetry.Connection) (*relay.Carried, *telemetry.Refusal) {
	dst, err := listen.Redirected(app, s.Original)
	if err != nil {
		return nil, &telemetry.Refusal{Reason: "original_destination", Err: err}
	}
	record.Destination = dst
	snapshot := s.Current()
	if snapshot == nil {
		return nil, &telemetry.Refusal{Reason: "not_ready", Err: errors.New("no generation of files was good yet")}
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	d, facts := s.Resolver.Resolve(ctx, snapshot.Mesh, dst)
	record.Self, record.Service = snapshot.ID.String(), d.Host
	judge := s.plaintextJudge(dst, facts)
	switch d.Kind {
	case destination.Mesh:
		return s.serveMesh(app, record, snapshot, meshDestination{dst, d, facts})
	case destination.Plaintext, destination.Unknown:
		if err := judge(snapshot); err != nil {
			return nil, &telemetry.Refusal{Reason: "unknown_destination", Err: err}
		}
		security := telemetry.Plaintext
		if d.Kind == destination.Unknown {
			security = telemetry.Passthrough
		}
		return s.servePlaintext(app, record, snapshot, judge, security)
	}
	return nil, &telemetry.Refusal{Reason: "destination", Err: errors.New(d.Reason)}
}

// plaintextJudge tells whether a snapshot lets a connection to dst leave as plaintext: at its start, and again at every
// new generation.
func (s *Server) plaintextJudge(dst netip.AddrPort, facts destination.Lookup) live.Judge {
	return func(now *identity.Snapshot) error {
		switch d := s.Resolver.MapOf(now.Mesh).Decide(dst, facts); {
		case d.Kind == destination.Plaintext:
			return nil
		case d.Kind == destination.Unknown && now.Mesh.Outbound.Unknown == meshmap.Passthrough:
			return nil
		case d.Kind == destination.Unknown:
			return fmt.Errorf("%s is not in the mesh, and outbound.unknown is %s", dst, now.Mesh.Outbound.Unknown)
		case d.Kind == destination.Mesh:
			return fmt.Errorf("%s is in the mesh now, plaintext must not go there", dst)
		default:
			return errors.New(d.Reason)
		}
	}
}

func (s *Server) servePlaintext(app *net.TCPConn, record *telemetry.Connection, snapshot *identity.Snapshot, judge live.Judge, security telemetry.Security) (*relay.Carried, *telemetry.Refusal) {
	target, err := listen.DialTCP(context.Background(), listen.Dialer(ConnectTimeout), record.Destination)
	if err != nil {
		return nil, &telemetry.Refusal{Reason: "connect", Err: err}
	}
	return s.carried(app, relay.Plain(target), security, record, snapshot, judge), nil
}

// meshDestination is a destination in the mesh and how we know that.
type meshDestination struct {
	addr  netip.AddrPort
	who   destination.Destination
	facts destination.Lookup
}

func (m meshDestination) accept(id spiffeid.ID) error {
	if m.who.Accepts(id) {
		return nil
	}
	return &telemetry.WrongIdentity{Detail: fmt.Sprintf("%s answers at %s (%s), where only %s may", id, m.addr, m.who.Host, m.who.Expected())}
}

// serveMesh dials exactly the address that the app dialed, and relays only when the server there has proved an identity
// that may answer.
func (s *Server) serveMesh(app *net.TCPConn, record *telemetry.Connection, snapshot *identity.Snapshot, m meshDestination) (*relay.Carried, *telemetry.Refusal) {
	target, err := listen.DialTCP(context.Background(), listen.Dialer(ConnectTimeout), m.addr)
	if err != nil {
		return nil, &telemetry.Refusal{Reason: "connect", Err: err}
	}
	began := time.Now()
	var server spiffeid.ID
	config, mutual := snapshot.ClientConfig(func(claimed spiffeid.ID) error {
		server = claimed
		return m.accept(claimed)
	})
	side, chain, err := relay.Secure(relay.NewRaw(target, nil), relay.Client, config, began.Add(HandshakeTimeout))
	if err == nil && !mutual.Load() {
		err = telemetry.ErrNotMutual
	}
	if err != nil {
		listen.Reset(target)
		record.HandshakeFailed(err)
		return nil, nil
	}
	record.Peer = server.String() // proved by now, and not before: crypto/tls looks at the signature last
	record.HandshakeDone(began)
	chain = snapshot.Remember(chain, x509.ExtKeyUsageServerAuth)
	return s.carried(app, side, telemetry.MutualTLS, record, snapshot, s.meshJudge(m, chain)), nil
}

// meshJudge tells whether the server would still be accepted. A destination that has left the mesh map stays: nothing
// is expected of it any more, and it is encrypted at that. It ends if only the map had named it, since DNS did not
// answer: it may be in the mesh by another name.
func (s *Server) meshJudge(m meshDestination, chain []*x509.Certificate) live.Judge {
	return func(now *identity.Snapshot) error {
		id, err := now.VerifyPeer(chain, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return err
		}
		d := s.Resolver.MapOf(now.Mesh).Decide(m.addr, m.facts)
		if d.Kind == destination.Mesh {
			return meshDestination{m.addr, d, m.facts}.accept(id)
		}
		return s.plaintextJudge(m.addr, m.facts)(now)
	}
}

func (s *Server) carried(app *net.TCPConn, target *relay.Side, security telemetry.Security, record *telemetry.Connection, snapshot *identity.Snapshot, judge live.Judge) *relay.Carried {
	return &relay.Carried{Opener: relay.Plain(app), Target: target, Security: security, Idle: s.Idle, Record: record, Live: s.Live, Snapshot: snapshot, Judge: judge}
}
