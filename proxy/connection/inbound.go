package connection

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/authz"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/reason"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// Default limits of inbound connections whose peer is not known yet.
const (
	MaxUnauthenticated = 1000
	// MaxUnauthenticatedPerSource keeps places free for others while one address floods. It leaves room for the burst
	// in which a client fills its connection pool, and for clients behind one translated address.
	MaxUnauthenticatedPerSource = MaxUnauthenticated / sourceParts

	sourceParts = 4 // of the places, one source address gets one part
)

// InboundConfig is what the inbound direction needs beside Config.
type InboundConfig struct {
	Config
	OwnAddress func(netip.Addr) bool // required; (*listen.OwnAddresses).Contains, but in tests

	Clients            *listen.Clients // the address of each client at the app; default: the system's choice
	MaxUnauthenticated int             // default MaxUnauthenticated; of one source address a quarter
}

func (c InboundConfig) perSource() int { return c.MaxUnauthenticated / sourceParts }

// inbound is the inbound direction.
type inbound struct {
	Server
	config          InboundConfig
	unauthenticated *listen.SourceLimit // of connections whose peer is not known yet
	shares          *listen.SourceLimit // of all connections
	// strangers is for connections without mutual TLS, of Permissive and TLSPassthrough ports. They are not
	// authenticated, so they must not fill the places of the others.
	strangers listen.Semaphore
}

// NewInbound makes a server of inbound connections.
func NewInbound(c InboundConfig) *Server {
	c.MaxUnauthenticated = cmp.Or(c.MaxUnauthenticated, MaxUnauthenticated)
	c.Clients = cmp.Or(c.Clients, listen.NewClients(clientaddr.Ranges{}))
	s := &inbound{config: c, unauthenticated: listen.NewSourceLimit(c.perSource())}
	s.init(reason.Inbound, c.Config, s.prepare)
	s.listen.Unauthenticated = listen.NewSemaphore(c.MaxUnauthenticated)
	half := max(1, s.MaxConnections/2)
	s.shares, s.strangers = listen.NewSourceLimit(half), listen.NewSemaphore(half)
	return &s.Server
}

// inboundConn is one inbound connection on its way to the app.
type inboundConn struct {
	*conn
	in       *inbound
	known    func()    // gives the place among the unauthenticated connections of its source back; may be called often
	deadline time.Time // of everything before the relay
	dryRun   sync.Once // of the report that this connection would be denied
}

func (s *inbound) prepare(ctx context.Context, common *conn) error {
	c := &inboundConn{conn: common, in: s, deadline: time.Now().Add(HandshakeTimeout)}
	err := c.accept(ctx)
	if why := reason.Of(err).Reason; err != nil && (why == reason.NotReady || why == reason.SourceLimit) {
		_, _ = c.Write(internalError) // the socket's buffer is empty, so this does not block
		_ = c.Close()                 // in order, so that it arrives
	}
	return err
}

// internalError is a fatal alert of TLS (RFC 8446, section 6). A proxy that cannot serve now says so by it: a client
// that tries mutual TLS first takes a close without an answer for the sign of a server outside the mesh.
var internalError = []byte{21, 3, 3, 0, 2, 2, 80}

func (c *inboundConn) accept(ctx context.Context) error {
	s, common := c.in, c.conn
	if err := c.admit(); err != nil {
		return err
	}
	if err := s.locate(common); err != nil {
		return err
	}
	switch {
	case !s.config.OwnAddress(c.dst.Addr()):
		return reason.New(reason.ForeignAddress, fmt.Errorf("%s is no address of this pod", c.dst.Addr()))
	case slices.Contains(api.ReservedPorts, int(c.dst.Port())):
		return reason.New(reason.ReservedPort, fmt.Errorf("port %d is the proxy's own", c.dst.Port()))
	}
	if err := s.identify(common); err != nil {
		return err
	}
	switch c.snapshot.PortMode(c.dst.Port()) {
	case podplan.PortPermissive:
		return c.acceptAnything(ctx)
	case podplan.PortTLSPassthrough:
		return c.acceptAnyTLS(ctx)
	}
	return c.acceptTLS(ctx, nil)
}

// acceptAnything serves a Permissive port.
func (c *inboundConn) acceptAnything(ctx context.Context) error {
	prefix, what, err := sniff(c.TCPConn, time.Now().Add(noDataTimeout), c.deadline)
	c.in.Telemetry.Detected(what)
	switch {
	case err != nil:
		return reason.New(reason.DetectionFailed, err)
	case what == telemetry.DetectedMutualTLS:
		return c.acceptTLS(ctx, prefix)
	}
	return c.acceptStranger(ctx, prefix, telemetry.Plaintext, podplan.PortPermissive)
}

// acceptAnyTLS serves a TLSPassthrough port. What is no whole hello of TLS is refused for the reasons of a Strict port.
func (c *inboundConn) acceptAnyTLS(ctx context.Context) error {
	prefix, what, err := sniff(c.TCPConn, c.deadline, c.deadline)
	switch what {
	case telemetry.DetectedMutualTLS:
		return c.acceptTLS(ctx, prefix)
	case telemetry.DetectedTLS:
		return c.acceptStranger(ctx, prefix, telemetry.TLSPassthrough, podplan.PortPermissive, podplan.PortTLSPassthrough)
	}
	return noHello(what, err, c.deadline)
}

// noHello is why what arrived on a TLSPassthrough port is refused.
func noHello(what telemetry.Detection, err error, deadline time.Time) error {
	refusal := &reason.Error{Reason: reason.HandshakeFailed, Cause: reason.NotTLS, Err: errors.New("the port takes TLS only, and this is no hello of TLS")}
	switch {
	case errors.Is(err, errHalfHello):
		refusal.Cause, refusal.Err = reason.Timeout, err
	case err != nil:
		refusal.Cause, refusal.Err = causeOf(err), err
	case what == telemetry.DetectedNoData && time.Now().Before(deadline):
		refusal.Cause, refusal.Err = reason.PeerClosed, io.EOF
	case what == telemetry.DetectedNoData:
		refusal.Cause, refusal.Err = reason.Timeout, os.ErrDeadlineExceeded
	}
	return refusal
}

// admit gives a connection its share of the places, if its source has one left.
func (c *inboundConn) admit() error {
	source, limit := c.log.Source.Addr(), c.in.config.perSource()
	share, ok := c.in.shares.Acquire(source)
	if !ok {
		return reason.New(reason.SourceLimit, fmt.Errorf("%s has half of all connections", source))
	}
	c.release = append(c.release, share)
	if c.known, ok = c.in.unauthenticated.Acquire(source); !ok {
		return reason.New(reason.SourceLimit, fmt.Errorf("%s has %d connections that are not authenticated yet", source, limit))
	}
	c.release = append(c.release, c.known)
	return nil
}

// acceptTLS terminates mutual TLS; prefix is what was read from the peer already.
func (c *inboundConn) acceptTLS(ctx context.Context, prefix []byte) error {
	var peer spiffeid.ID
	var wouldDeny *authz.Denial
	config := c.snapshot.ServerConfig(func(claimed spiffeid.ID) (err error) {
		peer = claimed
		wouldDeny, err = c.authorize(claimed, c.snapshot)
		return err
	})
	began := time.Now()
	side, chain, err := relay.Secure(c.TCPConn, prefix, relay.Server, config, c.deadline)
	if err != nil {
		_ = c.Close() // in order, so that the alert which tells the peer why arrives
		return handshakeFailed(err)
	}
	// Only now is the identity proved: crypto/tls looks at the peer's signature after it has asked us about the
	// certificate, and certificates are public.
	c.log.Peer = peer.String()
	c.reportDryRun(wouldDeny)
	c.log.HandshakeDone(began)
	chain = c.snapshot.Remember(chain, x509.ExtKeyUsageClientAuth)
	c.client, c.security = side, telemetry.MutualTLS
	c.verify = func(now *identity.Snapshot) error {
		id, err := now.VerifyPeer(chain, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return err
		}
		wouldDeny, err := c.authorize(id, now)
		c.reportDryRun(wouldDeny)
		return err
	}
	return c.dialApp(ctx)
}

// authorize evaluates the policy. In a dry run it denies no peer of our trust domain; what it would deny is returned as
// wouldDeny. Peers of other trust domains are denied in a dry run, too: federation lets in only what a rule names, and
// the dry run is for rules that are not complete yet.
func (c *inboundConn) authorize(peer spiffeid.ID, snapshot *identity.Snapshot) (wouldDeny *authz.Denial, err error) {
	err = authz.Authorize(authz.Request{Peer: peer, Local: snapshot.ID, Port: c.dst.Port()}, snapshot.Mesh)
	denial := new(authz.Denial)
	if !snapshot.Mesh.Inbound.DryRun || !errors.As(err, &denial) || denial.Foreign() {
		return nil, err
	}
	return denial, nil
}

// reportDryRun reports, once for a connection, that it would be denied.
func (c *inboundConn) reportDryRun(wouldDeny *authz.Denial) {
	if wouldDeny != nil {
		c.dryRun.Do(func() { c.log.Denied(wouldDeny, false) })
	}
}

// acceptStranger passes a peer on to the app that has not said who it is; prefix is what was read from it already. It
// may stay for as long as the port has one of the modes.
func (c *inboundConn) acceptStranger(ctx context.Context, prefix []byte, security telemetry.Security, modes ...podplan.PortMode) error {
	permits := c.in.strangers
	if !permits.TryAcquire() {
		return reason.New(reason.PlaintextLimit, fmt.Errorf("%d connections without mutual TLS are there already", cap(permits)))
	}
	c.release = append(c.release, permits.Release)
	c.client, c.prefix, c.security = relay.Plain(c.TCPConn), prefix, security
	dst := c.dst
	c.verify = func(now *identity.Snapshot) error {
		if mode := now.PortMode(dst.Port()); !slices.Contains(modes, mode) {
			return fmt.Errorf("port %d is %s now", dst.Port(), mode)
		}
		return nil
	}
	return c.dialApp(ctx)
}

// dialApp connects to the app. Only from here on does the peer count as known.
func (c *inboundConn) dialApp(ctx context.Context) error {
	_ = c.SetDeadline(time.Time{})
	c.known()
	c.Authenticated()
	source, release := c.in.config.Clients.Acquire(c.log.Source.Addr(), c.dst.Addr(), c.log.Peer)
	c.release = append(c.release, release)
	dialer := listen.AppDialer(source, ConnectTimeout)
	if c.transparent() {
		dialer = listen.TransparentDialer(c.log.Source.Addr(), ConnectTimeout)
	}
	app, err := c.dial(ctx, dialer)
	if err != nil {
		return err
	}
	c.log.AppSource = listen.AddrPort(app.LocalAddr())
	if c.snapshot.Workload.ProxyProtocolPorts.Contains(c.dst.Port()) {
		_ = app.SetWriteDeadline(time.Now().Add(headerTimeout))
		if err := writeProxyHeader(app, c.log); err != nil {
			listen.Reset(app)
			return reason.New(reason.ProxyProtocol, err)
		}
		_ = app.SetWriteDeadline(time.Time{})
	}
	c.server = relay.Plain(app)
	return nil
}

// transparent tells whether the app is to see the client's own address. A client of this pod, led back by a Service,
// would meet the proxy again; and a link-local address means nothing away from its interface.
func (c *inboundConn) transparent() bool {
	client := c.log.Source.Addr()
	return c.snapshot.Workload.TransparentPorts.Contains(c.dst.Port()) && !c.in.config.OwnAddress(client) && !client.IsLinkLocalUnicast()
}
