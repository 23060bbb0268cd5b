package telemetry

import (
	"context"
	"log/slog"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshless-dev/meshless/proxy/authz"
)

// Connection is one connection for the access log. Source is who opened it, Destination where it goes.
type Connection struct {
	Direction           Direction
	Source, Destination netip.AddrPort
	Service             string // of the destination, where known
	Self                string // SPIFFE ID of this pod, once a generation is in use
	Peer                string // SPIFFE ID; only if TLS proved it
	Security            Security
	Start               time.Time
	t                   *Telemetry
	received, sent      prometheus.Counter
}

// Begin is a connection that has just been accepted.
func (t *Telemetry) Begin(d Direction, source netip.AddrPort) *Connection {
	return &Connection{Direction: d, Source: netip.AddrPortFrom(source.Addr().Unmap(), source.Port()), Start: time.Now(), t: t}
}

// Open records that the connection begins to carry data.
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

// Received counts bytes from the one who opened the connection, after Open.
func (c *Connection) Received(n int64) { c.received.Add(float64(n)) }

// Sent counts bytes to the one who opened the connection, after Open.
func (c *Connection) Sent(n int64) { c.sent.Add(float64(n)) }

// Close records the end of a connection after Open. Reason is of a small closed set; err is for the log and may be nil.
func (c *Connection) Close(received, sent int64, reason string, err error) {
	c.t.closed.WithLabelValues(string(c.Direction), string(c.Security), reason).Inc()
	c.t.open.WithLabelValues(string(c.Direction), string(c.Security)).Dec()
	c.log(levelOf(reason), "connection closed", reason, err, "security", string(c.Security), "bytes_received", received, "bytes_sent", sent)
}

// levelOf is that of the line about a connection that carried data: a warning where somebody was shut out, which the
// other side of TLS 1.3 learns only after its handshake, or where a peer vanished.
func levelOf(reason string) slog.Level {
	switch reason {
	case "alert", "no_longer_accepted", "peer_vanished":
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// Refusal is why a connection carries no data: a reason of a small closed set, and the details. A nil one is recorded
// already.
type Refusal struct {
	Reason string
	Err    error
}

// Refuse records the end of a connection that never carried data. In a flood all are counted, and not all are logged:
// the log must not be what fills a disk.
func (c *Connection) Refuse(reason string, err error) {
	c.t.refused.WithLabelValues(string(c.Direction), reason).Inc()
	if more, ok := c.t.floods.allow(string(c.Direction) + " " + reason); ok {
		c.log(slog.LevelWarn, "connection refused", reason, err, more...)
	}
}

// Denied counts a peer whom the policy denies. With a dry run the connection goes on, and this line is all that
// happens.
func (c *Connection) Denied(d *authz.Denial, enforced bool) {
	c.t.denials.WithLabelValues(string(d.Reason), strconv.FormatBool(enforced)).Inc()
	if enforced {
		return
	}
	if more, ok := c.t.floods.allow("dry run"); ok {
		c.t.Log.Warn("connection would be denied", c.who(append([]any{"reason", string(d.Reason), "error", d.Error()}, more...)...)...)
	}
}

// HandshakeDone records how long a completed handshake took.
func (c *Connection) HandshakeDone(began time.Time) {
	c.t.handshakes.WithLabelValues(string(c.Direction)).Observe(time.Since(began).Seconds())
}

func (c *Connection) log(level slog.Level, message, reason string, err error, more ...any) {
	if !c.t.Log.Enabled(context.Background(), level) {
		return
	}
	args := append(c.who("duration_ms", time.Since(c.Start).Milliseconds(), "reason", reason), more...)
	if err != nil {
		if reason == reasonHandshake {
			args = append(args, "handshake", handshakeReason(err))
		}
		args = append(args, "error", clip(err.Error()))
		if hint := hintFor(c.Direction, reason, err); hint != "" {
			args = append(args, "hint", hint)
		}
	}
	c.t.Log.Log(context.Background(), level, message, args...)
}

// who says who talks to whom, and then more. Inbound the peer is the source, outbound the destination.
func (c *Connection) who(more ...any) []any {
	source, destination := c.Peer, c.Self
	if c.Direction == Outbound {
		source, destination = c.Self, c.Peer
	}
	return append([]any{"direction", string(c.Direction), "src", c.Source.String(), "src_identity", source, "dst", c.Destination.String(),
		"dst_identity", destination, "service", c.Service}, more...)
}
