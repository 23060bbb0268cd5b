// Package telemetry counts and logs what the proxy does: Prometheus metrics with labels from small closed sets, and one access-log line
// per connection, at its end. Addresses, hosts and identities go into the log only, so that no peer can grow the metrics.
package telemetry

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/meshless-dev/meshless/internal/contract"
	"github.com/meshless-dev/meshless/proxy/identity"
)

// Direction is a side of the proxy.
type Direction string

// The directions.
const (
	Inbound  Direction = "inbound"
	Outbound Direction = "outbound"
)

// Security is how the bytes of a connection travel between pods.
type Security string

// The kinds of security.
const (
	MutualTLS Security = "mutual_tls"
	Plaintext Security = "plaintext"
)

// Telemetry is shared by all parts of a proxy. Make it with New.
type Telemetry struct {
	Log      *slog.Logger
	Registry *prometheus.Registry

	opened, closed, refused, handshakeFailures *prometheus.CounterVec
	open                                       *prometheus.GaugeVec
	sent, received                             *prometheus.CounterVec
	denials, lookups                           *prometheus.CounterVec
	handshakes                                 *prometheus.HistogramVec
	reloadFailures, acceptErrors               prometheus.Counter
	generation, leafNotAfter                   prometheus.Gauge
	caNotAfter                                 *prometheus.GaugeVec
}

// New makes a registry of its own, with the metrics of the Go runtime and of the process.
func New(log *slog.Logger) *Telemetry {
	t := &Telemetry{Log: log, Registry: prometheus.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meshless_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "meshless_" + name, Help: help})
	}
	t.opened = counter("connections_opened_total", "Connections that began to carry data.", "direction", "security")
	t.closed = counter("connections_closed_total", "Connections that carried data and ended.", "direction", "security", "reason")
	t.refused = counter("connections_refused_total", "Connections that ended before they carried data.", "direction", "reason")
	t.handshakeFailures = counter("handshake_failures_total", "TLS handshakes that failed, by the reason of the verifier.", "direction", "reason")
	t.denials = counter("denials_total", "Verified peers that the policy denied.", "reason")
	t.lookups = counter("dns_lookups_total", "Addresses looked up in DNS, by result.", "result")
	t.sent = counter("sent_bytes_total", "Bytes that went to the one who opened the connection.", "direction", "security")
	t.received = counter("received_bytes_total", "Bytes that came from the one who opened the connection.", "direction", "security")
	t.open = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "meshless_connections_open", Help: "Connections that carry data now."},
		[]string{"direction", "security"})
	t.handshakes = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "meshless_handshake_seconds", Help: "Duration of completed TLS handshakes.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5}}, []string{"direction"})
	t.caNotAfter = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "meshless_ca_not_after_timestamp_seconds",
		Help: "When the authority of the bundle that expires soonest, or latest, does so."}, []string{"which"})
	t.reloadFailures = prometheus.NewCounter(prometheus.CounterOpts{Name: "meshless_reload_failures_total", Help: "Generations of files that were refused."})
	t.acceptErrors = prometheus.NewCounter(prometheus.CounterOpts{Name: "meshless_accept_errors_total", Help: "Failed accepts, such as for lack of file descriptors."})
	t.generation = gauge("generation", "Number of the generation of files in use, 0 before the first.")
	t.leafNotAfter = gauge("leaf_not_after_timestamp_seconds", "When the certificate in use expires.")
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "meshless_build_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": contract.Version}})
	build.Set(1)
	t.Registry.MustRegister(t.opened, t.closed, t.refused, t.handshakeFailures, t.denials, t.lookups, t.sent, t.received, t.open, t.handshakes,
		t.caNotAfter, t.reloadFailures, t.acceptErrors, t.generation, t.leafNotAfter, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return t
}

// Generation records the generation in use.
func (t *Telemetry) Generation(s *identity.Snapshot) {
	t.generation.Set(float64(s.Number))
	t.leafNotAfter.Set(float64(s.Leaf.NotAfter.Unix()))
	soonest, latest := s.Bundle.Authorities()[0].NotAfter, s.Bundle.Authorities()[0].NotAfter
	for _, ca := range s.Bundle.Authorities() {
		if ca.NotAfter.Before(soonest) {
			soonest = ca.NotAfter
		}
		if ca.NotAfter.After(latest) {
			latest = ca.NotAfter
		}
	}
	t.caNotAfter.WithLabelValues("soonest").Set(float64(soonest.Unix()))
	t.caNotAfter.WithLabelValues("latest").Set(float64(latest.Unix()))
}

// ReloadFailed counts a refused generation.
func (t *Telemetry) ReloadFailed() { t.reloadFailures.Inc() }

// AcceptFailed counts and logs a failed accept.
func (t *Telemetry) AcceptFailed(err error) {
	t.acceptErrors.Inc()
	t.Log.Warn("accept failed, trying again", "error", err.Error())
}

// Lookup counts a DNS lookup.
func (t *Telemetry) Lookup(result string) { t.lookups.WithLabelValues(result).Inc() }

// Connection is one connection for the access log. Source is who opened it, Destination where it goes.
type Connection struct {
	Direction           Direction
	Source, Destination netip.AddrPort
	Host                string // the Service, where known
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
}

// Received counts bytes from the one who opened the connection, after Open.
func (c *Connection) Received(n int64) { c.received.Add(float64(n)) }

// Sent counts bytes to the one who opened the connection, after Open.
func (c *Connection) Sent(n int64) { c.sent.Add(float64(n)) }

// Close records the end of a connection after Open. Reason is of a small closed set; err is for the log and may be nil.
func (c *Connection) Close(received, sent int64, reason string, err error) {
	c.t.closed.WithLabelValues(string(c.Direction), string(c.Security), reason).Inc()
	c.t.open.WithLabelValues(string(c.Direction), string(c.Security)).Dec()
	c.log(slog.LevelInfo, "connection closed", reason, err, "security", string(c.Security), "bytes_received", received, "bytes_sent", sent)
}

// Refuse records the end of a connection that never carried data. Reason is of a small closed set.
func (c *Connection) Refuse(reason string, err error) {
	c.t.refused.WithLabelValues(string(c.Direction), reason).Inc()
	c.log(slog.LevelWarn, "connection refused", reason, err)
}

func (c *Connection) log(level slog.Level, message, reason string, err error, more ...any) {
	args := []any{"direction", string(c.Direction), "src", c.Source.String(), "dst", c.Destination.String(), "host", c.Host, "peer", c.Peer,
		"duration_ms", time.Since(c.Start).Milliseconds(), "reason", reason}
	args = append(args, more...)
	if err != nil {
		args = append(args, "error", err.Error())
	}
	c.t.Log.Log(context.Background(), level, message, args...)
}

// HandshakeDone records how long a completed handshake took.
func (c *Connection) HandshakeDone(began time.Time) {
	c.t.handshakes.WithLabelValues(string(c.Direction)).Observe(time.Since(began).Seconds())
}
