// Package inbound serves what arrives at the pod: init redirects it to one listener, and it reaches the app only after
// mutual TLS and policy, or as plaintext on ports that are Permissive. The app is dialed at the address that the peer
// dialed, never at the loopback address, so that ports which the app binds to loopback stay private.
package inbound

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/authz"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/live"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// Deadlines of one connection, and default limits of connections at once.
const (
	HandshakeTimeout   = 5 * time.Second // until the handshake is done, counted from the accept
	ConnectTimeout     = 5 * time.Second
	MaxConnections     = 10000
	MaxUnauthenticated = 1000
	// MaxUnauthenticatedPerSource keeps slots free for others while one address floods. It leaves room for the burst in
	// which a client fills its connection pool, and for clients behind one translated address.
	MaxUnauthenticatedPerSource = MaxUnauthenticated / 4
)

// Config is what a Server needs; the fields up to Telemetry are required; Engine may be set until Serve.
type Config struct {
	Listeners  []net.Listener
	Original   func(*net.TCPConn) (netip.AddrPort, error) // listen.Original, but in tests
	OwnAddress func(netip.Addr) bool                      // (*listen.OwnAddresses).Contains, but in tests
	Current    func() *identity.Snapshot                  // nil before the first good generation
	Live       *live.Registry
	Engine     *relay.Engine
	Telemetry  *telemetry.Telemetry

	Sources                     listen.Sources // from where the app is dialed
	MaxConnections              int            // default MaxConnections
	MaxUnauthenticated          int            // default MaxUnauthenticated
	MaxUnauthenticatedPerSource int            // default MaxUnauthenticatedPerSource
	HandshakeTimeout            time.Duration  // default HandshakeTimeout
	Idle                        time.Duration  // default of package relay
}

// Server serves inbound connections. Make it with New.
type Server struct {
	Config
	listen  listen.Server
	sources *listen.SourceLimit // of connections that are not authenticated
	shares  *listen.SourceLimit // of all connections
	// plaintext is for those of Permissive ports. Nobody knows who they are, so they must not fill the places of the
	// others.
	plaintext listen.Slots
}

// unauthenticated is the index of the slots that a connection gives back once its peer is known.
const unauthenticated = 1

// New makes a server.
func New(c Config) *Server {
	if c.MaxConnections <= 0 {
		c.MaxConnections = MaxConnections
	}
	if c.MaxUnauthenticated <= 0 {
		c.MaxUnauthenticated = MaxUnauthenticated
	}
	if c.MaxUnauthenticatedPerSource <= 0 {
		c.MaxUnauthenticatedPerSource = MaxUnauthenticatedPerSource
	}
	if c.HandshakeTimeout <= 0 {
		c.HandshakeTimeout = HandshakeTimeout
	}
	half := max(1, c.MaxConnections/2)
	s := &Server{Config: c, sources: listen.NewSourceLimit(c.MaxUnauthenticatedPerSource), shares: listen.NewSourceLimit(half), plaintext: listen.NewSlots(half)}
	s.listen = listen.Server{Name: string(telemetry.Inbound), Listeners: c.Listeners, Handle: s.handle, OnError: c.Telemetry.AcceptFailed,
		Slots: []listen.Slots{listen.NewSlots(c.MaxConnections), unauthenticated: listen.NewSlots(c.MaxUnauthenticated)}}
	c.Telemetry.Limit(telemetry.Inbound, c.MaxConnections)
	return s
}

// Serve accepts until ctx ends and returns when the last connection has ended.
func (s *Server) Serve(ctx context.Context) { s.listen.Serve(ctx) }

// Active is the number of connections that are served now.
func (s *Server) Active() int { return s.listen.Active() }

// connection is one inbound connection on its way to the app.
type connection struct {
	peer     *net.TCPConn
	known    func() // gives back what is held for connections that are not authenticated; may be called often
	end      func() // gives back the rest
	record   *telemetry.Connection
	snapshot *identity.Snapshot
	dst      netip.AddrPort
	deadline time.Time // of everything before the relay
	dryRun   sync.Once // of the report that this connection would be denied
}

func (s *Server) handle(peer *net.TCPConn, held *listen.Held) {
	c, ok := s.admit(peer, held)
	if !ok {
		listen.Reset(peer)
		held.End()
		return
	}
	end := func() {
		listen.Reset(peer) // does nothing after an orderly end
		c.known()
		c.end()
		held.End()
	}
	carried, refusal := s.prepare(c)
	if refusal != nil {
		c.record.Refuse(refusal.Reason, refusal.Err)
	}
	if carried == nil {
		end()
		return
	}
	carried.Start(s.Engine, end)
}

// admit gives a connection its share of the places, if its source has one left.
func (s *Server) admit(peer *net.TCPConn, held *listen.Held) (*connection, bool) {
	source := listen.AddrPort(peer.RemoteAddr())
	record := s.Telemetry.Begin(telemetry.Inbound, source)
	share, ok := s.shares.Acquire(source.Addr())
	if !ok {
		record.Refuse("source_limit", fmt.Errorf("%s has half of all connections", source.Addr()))
		return nil, false
	}
	release, ok := s.sources.Acquire(source.Addr())
	if !ok {
		share()
		record.Refuse("source_limit", fmt.Errorf("%s has %d connections that are not authenticated yet", source.Addr(), s.MaxUnauthenticatedPerSource))
		return nil, false
	}
	known := func() {
		held.Release(unauthenticated)
		release()
	}
	return &connection{peer: peer, record: record, deadline: time.Now().Add(s.HandshakeTimeout), known: known, end: share}, true
}

// prepare leads a connection to where it can be relayed. Where it returns neither that nor a refusal, the failure is
// recorded already.
func (s *Server) prepare(c *connection) (*relay.Carried, *telemetry.Refusal) {
	dst, err := listen.Redirected(c.peer, s.Original)
	if err != nil {
		return nil, &telemetry.Refusal{Reason: "original_destination", Err: err}
	}
	c.dst, c.record.Destination = dst, dst
	switch {
	case !s.OwnAddress(dst.Addr()):
		return nil, &telemetry.Refusal{Reason: "foreign_address", Err: fmt.Errorf("%s is no address of this pod", dst.Addr())}
	case slices.Contains(api.ReservedPorts, int(dst.Port())):
		return nil, &telemetry.Refusal{Reason: "reserved_port", Err: fmt.Errorf("port %d is the proxy's own", dst.Port())}
	}
	if c.snapshot = s.Current(); c.snapshot == nil {
		return nil, &telemetry.Refusal{Reason: "not_ready", Err: errors.New("no generation of files was good yet")}
	}
	c.record.Self = c.snapshot.ID.String()
	if !c.snapshot.Permissive(dst.Port()) {
		return s.serveTLS(c, nil)
	}
	prefix, what, err := sniff(c.peer, c.deadline)
	s.Telemetry.Detected(what)
	switch {
	case err != nil:
		return nil, &telemetry.Refusal{Reason: "detection", Err: err}
	case what == telemetry.DetectedMutualTLS:
		return s.serveTLS(c, prefix)
	}
	return s.servePlaintext(c, prefix)
}

// serveTLS terminates mutual TLS; prefix is what was read from the peer already.
func (s *Server) serveTLS(c *connection, prefix []byte) (*relay.Carried, *telemetry.Refusal) {
	var peer spiffeid.ID
	var wouldDeny *authz.Denial
	config := c.snapshot.ServerConfig(func(claimed spiffeid.ID) (err error) {
		peer = claimed
		wouldDeny, err = c.authorize(claimed, c.snapshot)
		return err
	})
	began := time.Now()
	side, chain, err := relay.Secure(relay.NewRaw(c.peer, prefix), relay.Server, config, c.deadline)
	if err != nil {
		_ = c.peer.Close() // in order, so that the alert which tells the peer why arrives
		c.record.HandshakeFailed(err)
		return nil, nil
	}
	// Only now is the identity proved: crypto/tls looks at the peer's signature after it has asked us about the
	// certificate, and certificates are public.
	c.record.Peer = peer.String()
	c.reportDryRun(wouldDeny)
	c.record.HandshakeDone(began)
	chain = c.snapshot.Remember(chain, x509.ExtKeyUsageClientAuth)
	return s.carried(c, side, nil, telemetry.MutualTLS, func(now *identity.Snapshot) error {
		id, err := now.VerifyPeer(chain, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return err
		}
		wouldDeny, err := c.authorize(id, now)
		c.reportDryRun(wouldDeny)
		return err
	})
}

// authorize asks the policy. With a dry run it denies nobody of the trust domain; what it would deny is returned apart.
// A peer of another trust domain is denied all the same: federation opens what a rule names, and the dry run is about
// rules that are not complete yet.
func (c *connection) authorize(peer spiffeid.ID, snapshot *identity.Snapshot) (wouldDeny *authz.Denial, err error) {
	err = authz.Authorize(authz.Request{Peer: peer, Local: snapshot.ID, Port: c.dst.Port()}, snapshot.Mesh)
	denial := new(authz.Denial)
	if !snapshot.Mesh.Inbound.DryRun || !errors.As(err, &denial) || denial.Foreign() {
		return nil, err
	}
	return denial, nil
}

// reportDryRun reports, once for a connection, that it would be denied.
func (c *connection) reportDryRun(wouldDeny *authz.Denial) {
	if wouldDeny != nil {
		c.dryRun.Do(func() { c.record.Denied(wouldDeny, false) })
	}
}

func (s *Server) servePlaintext(c *connection, prefix []byte) (*relay.Carried, *telemetry.Refusal) {
	if !s.plaintext.Try() {
		return nil, &telemetry.Refusal{Reason: "plaintext_limit", Err: fmt.Errorf("%d connections in plaintext are there already", cap(s.plaintext))}
	}
	share := c.end
	c.end = func() {
		share()
		s.plaintext.Release()
	}
	return s.carried(c, relay.Plain(c.peer), prefix, telemetry.Plaintext, func(now *identity.Snapshot) error {
		if now.Permissive(c.dst.Port()) {
			return nil
		}
		return fmt.Errorf("port %d takes mutual TLS only now", c.dst.Port())
	})
}

// carried dials the app. Only from here on does the peer count as known.
func (s *Server) carried(c *connection, peer *relay.Side, prefix []byte, security telemetry.Security, judge live.Judge) (*relay.Carried, *telemetry.Refusal) {
	_ = c.peer.SetDeadline(time.Time{})
	c.known()
	app, err := listen.DialTCP(context.Background(), s.Sources.Dialer(c.dst.Addr(), ConnectTimeout), c.dst)
	if err != nil {
		return nil, &telemetry.Refusal{Reason: "connect", Err: err}
	}
	if c.snapshot.Workload.ProxyProtocolPorts.Contains(c.dst.Port()) {
		if err := announce(app, c.record); err != nil {
			listen.Reset(app)
			return nil, &telemetry.Refusal{Reason: "proxy_protocol", Err: err}
		}
	}
	carried := &relay.Carried{Opener: peer, Target: relay.Plain(app), Prefix: prefix, Security: security, Idle: s.Idle, Record: c.record,
		Live: s.Live, Snapshot: c.snapshot, Judge: judge}
	c.snapshot = nil // its key must not stay in memory for as long as a connection lives
	return carried, nil
}
