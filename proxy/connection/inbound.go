package connection

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
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
	"github.com/meshless-dev/meshless/proxy/registry"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// InboundConfig is what the inbound direction needs beside Config.
type InboundConfig struct {
	Config
	OwnAddress func(netip.Addr) bool // required; (*listen.OwnAddresses).Contains, but in tests

	Clients *listen.Clients // the address of each client at the app; default: the system's choice

	App func(netip.AddrPort) netip.AddrPort // where the app takes what is for an address of the pod; default: there
	// at which port clients reach us who want to go there; default: there, since init leads them to us
	Reached func(netip.AddrPort) netip.AddrPort
}

// inbound is the inbound direction.
type inbound struct {
	Server
	config InboundConfig
	// strangers is for connections without mutual TLS, of Permissive and TLSPassthrough ports. They are not
	// authenticated, so they must not fill the places of the others.
	strangers listen.Semaphore
	late      listen.Semaphore // for hellos that come after the app's greeting
	bound     *bound           // those that can be renewed
	silences  *silences
}

// NewInbound makes a server of inbound connections.
func NewInbound(c InboundConfig) (*Server, error) {
	c.Clients = cmp.Or(c.Clients, listen.NewClients(clientaddr.Ranges{}))
	c.Limits = c.Limits.orDefault()
	there := func(dst netip.AddrPort) netip.AddrPort { return dst }
	if c.App == nil {
		c.App = there
	}
	if c.Reached == nil {
		c.Reached = there
	}
	s := &inbound{config: c, strangers: listen.NewSemaphore(c.Limits.Strangers()), late: listen.NewSemaphore(c.Limits.Handshakes), bound: newBound(), silences: newSilences(time.Now)}
	s.listen.Patience = s.patience
	s.listen.Pressed = func(held int) { s.yield(held, false) }
	return &s.Server, s.init(reason.Inbound, c.Config, s.prepare)
}

// silentTimeout is how long a connection may wait in the park without a word. The hello of a client whose processor is
// busy comes late.
const silentTimeout = 15 * time.Second

// patience is for how long the first byte is waited for. On a Permissive port silence means something.
func (s *inbound) patience(tcp *net.TCPConn) time.Duration {
	if snapshot := s.Current(); snapshot != nil {
		if dst, err := listen.OriginalDst(tcp, s.OriginalDst); err == nil && snapshot.PortMode(dst.Port()) == podplan.PortPermissive {
			return s.silences.patience(silenceKey{sourceOf(tcp), dst.Port()})
		}
	}
	return silentTimeout
}

// sourceOf is who has opened a connection.
func sourceOf(tcp *net.TCPConn) netip.Addr {
	return listen.AddrPort(tcp.RemoteAddr()).Addr().WithZone("")
}

// inboundConn is one inbound connection on its way to the app.
type inboundConn struct {
	*conn
	in       *inbound
	deadline time.Time // of everything before the relay
	dryRun   sync.Once // of the report that this connection would be denied
}

func (s *inbound) prepare(ctx context.Context, common *conn) error {
	c := &inboundConn{conn: common, in: s, deadline: time.Now().Add(HandshakeTimeout)}
	if c.Silent {
		c.deadline = time.Now().Add(glance)
	}
	c.holders = []string{c.log.Source.Addr().WithZone("").String()}
	err := c.accept(ctx)
	if reason.Of(err).Reason == reason.NotReady && err != nil {
		c.busy()
	}
	return err
}

// glance is a look at what has arrived already.
const glance = 20 * time.Millisecond

func (c *inboundConn) accept(ctx context.Context) error {
	s, common := c.in, c.conn
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
	key := c.silence()
	noData := c.Accepted.Add(c.in.silences.patience(key))
	if soonest := time.Now().Add(glance); noData.Before(soonest) { // it has waited
		noData = soonest
	}
	prefix, what, err := sniff(c.TCPConn, noData, c.deadline)
	c.in.Telemetry.Detected(what)
	switch {
	case err != nil:
		return reason.New(reason.DetectionFailed, err)
	case what == telemetry.DetectedMutualTLS:
		return c.acceptTLS(ctx, prefix)
	case what == telemetry.DetectedNoData:
		c.begin = c.sniffLate
	}
	c.in.silences.plaintext(key)
	return c.acceptStranger(ctx, prefix, telemetry.Plaintext, podplan.PortPermissive)
}

func (c *inboundConn) silence() silenceKey { return silenceKey{sourceOf(c.TCPConn), c.dst.Port()} }

// sniffLate ends the connection of a client of the mesh that was taken for another.
func (c *inboundConn) sniffLate() ([]byte, error) {
	prefix, err := sniffLate(c.TCPConn, c.in.late)
	if err != nil {
		c.in.silences.overtaken(c.silence())
		return nil, reason.New(reason.DetectionFailed, err)
	}
	return prefix, nil
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

// acceptTLS terminates mutual TLS; prefix is what was read from the peer already.
func (c *inboundConn) acceptTLS(ctx context.Context, prefix []byte) error {
	var id spiffeid.ID
	var wouldDeny *authz.Denial
	config := c.snapshot.ServerConfig(func(claimed spiffeid.ID) (err error) {
		id = claimed
		wouldDeny, err = c.authorize(claimed, c.snapshot)
		return err
	})
	identity.Announce(config, c.in.config.Reached(c.dst))
	began := time.Now()
	h, err := c.in.Records.Shake(c.TCPConn, prefix, relay.Server, config, c.deadline, c.in.gate)
	if err != nil {
		return c.refuse(handshakeFailed(err))
	}
	// Only now is the identity proved: crypto/tls looks at the peer's signature after it has asked us about the
	// certificate, and certificates are public.
	c.log.Peer = id.String()
	c.reportDryRun(wouldDeny)
	c.log.HandshakeDone(began)
	c.Proved()
	if c.snapshot.PortMode(c.dst.Port()) == podplan.PortPermissive {
		c.in.silences.mutualTLS(c.silence())
	}
	c.holders = append(c.holders, c.log.Peer)
	chain := c.snapshot.Remember(h.State.PeerCertificates, x509.ExtKeyUsageClientAuth)
	peer := c.snapshot.Proof(id, chain, x509.ExtKeyUsageClientAuth)
	if h.State.NegotiatedProtocol == api.RenewALPN {
		return c.renew(h, peer)
	}
	if c.client, err = h.Side(); err != nil {
		_ = c.Close()
		return handshakeFailed(err)
	}
	c.release = append(c.release, c.in.bound.add(h.State, peer))
	c.security, c.verify = telemetry.MutualTLS, c.verifyMesh(peer)
	return c.dialApp(ctx)
}

// verifyMesh tells whether the client would still be accepted.
func (c *inboundConn) verifyMesh(peer *identity.Peer) registry.Verify {
	return func(now *identity.Snapshot) error {
		if _, err := peer.Verify(now); err != nil {
			return err
		}
		wouldDeny, err := c.authorize(peer.ID, now)
		c.reportDryRun(wouldDeny)
		return err
	}
}

// refuse closes a connection whose handshake has failed in order, so that the alert which tells the peer why arrives. A
// peer that has ended it needs no alert.
func (c *inboundConn) refuse(err error) error {
	switch reason.Of(err).Cause {
	case reason.PeerClosed, reason.PeerRefused, reason.Timeout:
		_ = c.Close()
	default:
		relay.CloseAfterAlert(c.TCPConn)
	}
	return err
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
	if !c.in.plaintext(ctx, c.conn, c.in.Limits.holders.count(theStrangers)) {
		return reason.New(reason.PlaintextLimit, errors.New("a connection without mutual TLS costs more, and there is no room for it"))
	}
	c.holders = append(c.holders, theStrangers)
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
	c.Authenticated()
	_ = c.SetDeadline(time.Time{}) // nobody sets another any more
	source, release := c.in.config.Clients.Acquire(c.log.Source.Addr(), c.dst.Addr(), c.log.Peer)
	c.release = append(c.release, release)
	dialer := listen.AppDialer(source, ConnectTimeout)
	if c.transparent() {
		dialer = listen.TransparentDialer(c.log.Source.Addr(), ConnectTimeout)
	}
	app, err := c.in.dial(ctx, dialer, c.in.config.App(c.dst))
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
