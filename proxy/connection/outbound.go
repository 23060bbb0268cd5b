package connection

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/reason"
	"github.com/meshless-dev/meshless/proxy/registry"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// Resolver tells who is behind an address: *destination.Resolver, but in tests.
type Resolver interface {
	Resolve(context.Context, *meshmap.Map, netip.AddrPort) (destination.Destination, destination.Lookup)
	MapOf(*meshmap.Map) *destination.Map
}

// outbound is the outbound direction.
type outbound struct {
	Server
	resolver Resolver
	trials   *trials
	renewer  *renewer
}

// NewOutbound makes a server of outbound connections.
func NewOutbound(c Config, r Resolver) (*Server, error) {
	s := &outbound{resolver: r, trials: newTrials(time.Now), renewer: newRenewer()}
	// destinations take turns: one that does not answer must not keep others waiting
	s.listen.Source = func(tcp *net.TCPConn) netip.AddrPort {
		dst, _ := c.OriginalDst(tcp)
		return dst
	}
	s.listen.Pressed = func(int) { s.yield(s.Limits.holders.count(theApp), false) }
	s.Server.renewDue = s.renewDue
	return &s.Server, s.init(reason.Outbound, c, s.prepare)
}

func (s *outbound) prepare(ctx context.Context, c *conn) error {
	if err := s.locate(c); err != nil {
		return err
	}
	if err := s.identify(c); err != nil {
		return err
	}
	if s.Dialed != nil {
		var err error
		if c.dialed, err = s.Dialed(c.TCPConn); err != nil {
			return reason.New(reason.OriginalDestination, err)
		}
	}
	c.client, c.holders = relay.Plain(c.TCPConn), []string{theApp}
	if err := s.connect(ctx, c); err != nil {
		return err
	}
	c.Proved()
	c.Authenticated()
	return nil
}

// connect finds out who is there, and connects to it.
func (s *outbound) connect(ctx context.Context, c *conn) error {
	d, lookup := s.resolve(ctx, c)
	c.log.Service = d.Host
	m := meshDestination{c.dst, d, lookup}
	switch d.Kind {
	case destination.Mesh:
		s.trials.forget(c.dst) // it is known now
		return s.connectTLS(ctx, c, m, queueTimeout)
	case destination.TryMesh:
		if c.snapshot.Mesh.Outbound.Unknown == meshmap.Passthrough {
			return s.tryTLS(ctx, c, m)
		}
		return s.connectTLS(ctx, c, m, queueTimeout)
	case destination.Plaintext:
		return s.connectPlaintext(ctx, c, lookup, telemetry.Plaintext)
	case destination.Unknown:
		return s.connectPlaintext(ctx, c, lookup, telemetry.Passthrough)
	}
	return reason.New(reason.UncertainDestination, errors.New(d.Reason))
}

func (s *outbound) resolve(ctx context.Context, c *conn) (destination.Destination, destination.Lookup) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	d, lookup := s.resolver.Resolve(ctx, c.snapshot.Mesh, c.dst)
	if c.dialed.Service == "" {
		return d, lookup
	}
	lookup.Dialed = c.dialed
	return s.resolver.MapOf(c.snapshot.Mesh).Decide(c.dst, lookup), lookup
}

// verifyPlaintext tells whether a snapshot lets a connection to dst leave as plaintext: at its start, and again at
// every new generation.
func (s *outbound) verifyPlaintext(dst netip.AddrPort, lookup destination.Lookup) registry.Verify {
	return func(now *identity.Snapshot) error {
		switch d := s.resolver.MapOf(now.Mesh).Decide(dst, lookup); {
		case d.Kind == destination.Plaintext:
			return nil
		case d.Kind == destination.Unknown && now.Mesh.Outbound.Unknown == meshmap.Passthrough:
			return nil
		case d.Kind == destination.Unknown:
			return fmt.Errorf("%s is not in the mesh, and outbound.unknown is %s", dst, now.Mesh.Outbound.Unknown)
		case d.Kind == destination.Mesh:
			return fmt.Errorf("%s is in the mesh now, plaintext must not go there", dst)
		case d.Kind == destination.TryMesh:
			return fmt.Errorf("mutual TLS is to be tried first at %s now", dst)
		default:
			return errors.New(d.Reason)
		}
	}
}

func (s *outbound) connectPlaintext(ctx context.Context, c *conn, lookup destination.Lookup, security telemetry.Security) error {
	c.verify, c.security = s.verifyPlaintext(c.dst, lookup), security
	if err := c.verify(c.snapshot); err != nil {
		return reason.New(reason.UnknownDestination, err)
	}
	server, err := s.dial(ctx, listen.Dialer(ConnectTimeout), c.dst)
	if err != nil {
		return err
	}
	c.server = relay.Plain(server)
	if !s.plaintext(ctx, c, s.Limits.holders.count(theApp)) {
		listen.Reset(server)
		return errNoRoom
	}
	if security == telemetry.Passthrough && !lookup.Remote {
		c.ended = func(r relay.Result) { s.unanswered(c, r) }
	}
	return nil
}

var errNoRoom = reason.New(reason.ConnectionLimit, errors.New("a connection without mutual TLS costs more, and there is no room for it"))

// unanswered looks at a connection that has ended and left as it was, into the networks of the cluster. A server that
// closes without a word once the app has spoken is likely one of the mesh.
func (s *outbound) unanswered(c *conn, r relay.Result) {
	if r.ServerFirst && r.Received > 0 && r.Sent == 0 {
		s.trials.forget(c.dst)
		c.log.Unanswered(r.Received)
	}
}

// meshDestination is a destination in the mesh and how we know that.
type meshDestination struct {
	addr   netip.AddrPort
	who    destination.Destination
	lookup destination.Lookup
}

// accept tells by what an identity may answer; names are the DNS names of its certificate.
func (m meshDestination) accept(id spiffeid.ID, names []string) (destination.Acceptance, error) {
	if by := m.who.Accepts(id, names); by != "" {
		return by, nil
	}
	return "", &reason.Error{Reason: reason.HandshakeFailed, Cause: reason.WrongIdentity,
		Err: fmt.Errorf("%s answers at %s (%s), where only %s may", id, m.addr, m.who.Host, m.who.Expected())}
}

// server is where the proxy of the destination is reached: init leads the app's own port to it, or it has a port of its
// own for each.
func (m meshDestination) server() netip.AddrPort {
	if m.who.Direct {
		return netip.AddrPortFrom(m.addr.Addr(), api.DirectPort(m.addr.Port()))
	}
	return m.addr
}

// connectTLS connects with mutual TLS, and tries it twice where the server speaks first: a proxy of the mesh whose port
// is Permissive may have taken our hello, which came late, for silence. It knows better now.
func (s *outbound) connectTLS(ctx context.Context, c *conn, m meshDestination, timeout time.Duration) error {
	err := s.connectOnce(ctx, c, m, timeout)
	if !notTLS(err) {
		return err
	}
	select {
	case <-time.After(closePause):
	case <-ctx.Done():
		return err
	}
	return s.connectOnce(ctx, c, m, timeout)
}

// notTLS tells whether a server has answered with something else.
func notTLS(err error) bool { return errors.As(err, new(tls.RecordHeaderError)) }

// connectOnce dials exactly the address that the app dialed, if not always its port. It succeeds only if the server
// there has proved an identity that may answer, within the timeout.
func (s *outbound) connectOnce(ctx context.Context, c *conn, m meshDestination, timeout time.Duration) error {
	c.log.Server = m.server()
	server, err := s.dial(ctx, listen.Dialer(ConnectTimeout), m.server())
	if err != nil {
		return err
	}
	began := time.Now()
	var id spiffeid.ID
	var by destination.Acceptance
	config, mutual := c.snapshot.ClientConfig(func(claimed spiffeid.ID, names []string) (err error) {
		id = claimed
		by, err = m.accept(claimed, names)
		return err
	})
	if m.who.Kind == destination.TryMesh {
		noticeForeign(config)
	}
	h, err := s.Records.Shake(server, nil, relay.Client, config, began.Add(timeout), s.gate)
	switch {
	case err == nil && !mutual.Load():
		err = errNotMutual
	case err != nil && (by != "" || mutual.Load()):
		err = &lateError{err}
	}
	if err != nil {
		if notTLS(err) {
			relay.CloseAfterAlert(server) // a reset would take our hello from a proxy that has not read it yet
		} else {
			listen.Reset(server)
		}
		return handshakeFailed(err)
	}
	c.log.AcceptedBy = string(by)
	c.log.Peer = id.String() // proved by now, and not before: crypto/tls looks at the signature last
	c.log.HandshakeDone(began)
	if c.server, err = h.Side(); err != nil {
		listen.Reset(server)
		return handshakeFailed(err)
	}
	chain := c.snapshot.Remember(h.State.PeerCertificates, x509.ExtKeyUsageServerAuth)
	peer := c.snapshot.Proof(id, chain, x509.ExtKeyUsageServerAuth)
	c.release = append(c.release, s.renewer.add(h.State, m, peer, c.snapshot.Leaf))
	c.security, c.verify = telemetry.MutualTLS, s.verifyMesh(m, peer)
	return nil
}

// verifyMesh tells whether the server would still be accepted. A destination that has left the mesh map stays: nothing
// is expected of it any more, and it is encrypted at that. It ends if only the map had named it, since DNS did not
// answer: it may be in the mesh by another name.
func (s *outbound) verifyMesh(m meshDestination, peer *identity.Peer) registry.Verify {
	return func(now *identity.Snapshot) error {
		names, err := peer.Verify(now)
		if err != nil {
			return err
		}
		d := s.resolver.MapOf(now.Mesh).Decide(m.addr, m.lookup)
		if d.Kind == destination.Mesh || d.Kind == destination.TryMesh {
			_, err := meshDestination{m.addr, d, m.lookup}.accept(peer.ID, names)
			return err
		}
		return s.verifyPlaintext(m.addr, m.lookup)(now)
	}
}
