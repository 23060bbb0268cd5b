package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshless-dev/meshless/proxy/authz"
	"github.com/meshless-dev/meshless/proxy/reason"
)

// Connection is one connection for the access log. Source is who opened it, Destination where it goes.
type Connection struct {
	Direction           reason.Direction
	Source, Destination netip.AddrPort
	AppSource           netip.AddrPort // inbound: the client as the app sees it, once the app is dialed
	Server              netip.AddrPort // outbound: where the server's proxy was dialed, if at another port than Destination's
	Service             string         // of the destination, where known
	Self                string         // SPIFFE ID of this pod, once a generation is in use
	Peer                string         // SPIFFE ID; only if TLS proved it
	AcceptedBy          string         // by what a server may answer (destination.Acceptance); outbound alone
	Trial               string         // what proved that the server is not of the mesh, where mutual TLS was tried first
	Security            Security
	Start               time.Time
	t                   *Telemetry
	received, sent      prometheus.Counter
}

// Begin is a connection that has just been accepted.
func (t *Telemetry) Begin(d reason.Direction, source netip.AddrPort) *Connection {
	return &Connection{Direction: d, Source: netip.AddrPortFrom(source.Addr().Unmap(), source.Port()), Start: time.Now(), t: t}
}

// Open counts that the connection begins to carry data.
func (c *Connection) Open(s Security) {
	c.Security = s
	direction, security := string(c.Direction), string(s)
	c.t.opened.WithLabelValues(direction, security).Inc()
	c.t.open.WithLabelValues(direction, security).Inc()
	c.received, c.sent = c.t.received.WithLabelValues(direction, security), c.t.sent.WithLabelValues(direction, security)
	if c.t.Log.Enabled(context.Background(), slog.LevelDebug) {
		c.t.Log.Debug("connection opened", c.who("security", security)...)
	}
}

// Received counts bytes from the client, after Open.
func (c *Connection) Received(n int64) { c.received.Add(float64(n)) }

// Sent counts bytes to the client, after Open.
func (c *Connection) Sent(n int64) { c.sent.Add(float64(n)) }

// Close counts and logs the end of a connection after Open. Err is nil if both directions ended in order.
func (c *Connection) Close(received, sent int64, err error) {
	end := &reason.Error{Reason: reason.Done}
	if err != nil {
		end = reason.Of(err)
	}
	c.t.closed.WithLabelValues(string(c.Direction), string(c.Security), string(end.Reason)).Inc()
	c.t.open.WithLabelValues(string(c.Direction), string(c.Security)).Dec()
	c.log("connection closed", end, "security", string(c.Security), "bytes_received", received, "bytes_sent", sent)
}

// Refuse counts and logs the end of a connection that never carried data. All are counted. Of many only some are
// logged: strangers must not fill a disk.
func (c *Connection) Refuse(err error) {
	e := reason.Of(err)
	c.t.refused.WithLabelValues(string(c.Direction), string(e.Reason)).Inc()
	if e.Reason == reason.HandshakeFailed {
		c.t.handshakeFailures.WithLabelValues(string(c.Direction), string(e.Cause)).Inc()
	}
	if d := new(authz.Denial); errors.As(err, &d) {
		c.Denied(d, true)
	}
	if more, ok := c.t.lines.allow(string(c.Direction) + " " + string(e.Reason)); ok {
		c.log("connection refused", e, more...)
	}
}

// Denied counts a peer whom the policy denies. With a dry run the connection goes on, and this line is all that
// happens.
func (c *Connection) Denied(d *authz.Denial, enforced bool) {
	c.t.denials.WithLabelValues(string(d.Reason), strconv.FormatBool(enforced)).Inc()
	if enforced {
		return
	}
	if more, ok := c.t.lines.allow("dry run"); ok {
		c.t.Log.Warn("connection would be denied", c.who(append([]any{"reason", string(d.Reason), "error", d.Error()}, more...)...)...)
	}
}

// HandshakeDone observes how long a completed handshake took.
func (c *Connection) HandshakeDone(began time.Time) {
	c.t.handshakes.WithLabelValues(string(c.Direction)).Observe(time.Since(began).Seconds())
}

func (c *Connection) log(message string, e *reason.Error, more ...any) {
	level := e.Reason.Level()
	if !c.t.Log.Enabled(context.Background(), level) {
		return
	}
	args := append(c.who("duration_ms", time.Since(c.Start).Milliseconds(), "reason", string(e.Reason)), more...)
	if e.Reason == reason.HandshakeFailed {
		args = append(args, "handshake_failure", string(e.Cause))
	}
	if e.Err != nil {
		args = append(args, "error", truncate(e.Err.Error()))
		if hint := e.Hint(c.Direction); hint != "" {
			args = append(args, "hint", hint)
		}
	}
	c.t.Log.Log(context.Background(), level, message, args...)
}

// who says who talks to whom, and then more. Inbound the peer is the source, outbound the destination.
func (c *Connection) who(more ...any) []any {
	source, destination := c.Peer, c.Self
	if c.Direction == reason.Outbound {
		source, destination = c.Self, c.Peer
	}
	args := []any{"direction", string(c.Direction), "src", c.Source.String(), "src_identity", source, "dst", c.Destination.String(),
		"dst_identity", destination, "service", c.Service}
	if c.AppSource.IsValid() {
		args = append(args, "src_app", c.AppSource.String())
	}
	if c.Server.IsValid() && c.Server != c.Destination {
		args = append(args, "dialed", c.Server.String())
	}
	if c.AcceptedBy != "" {
		args = append(args, "accepted_by", c.AcceptedBy)
	}
	if c.Trial != "" {
		args = append(args, "trial", c.Trial)
	}
	return append(args, more...)
}
