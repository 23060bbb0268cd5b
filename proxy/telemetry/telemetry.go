// Package telemetry counts and logs what the proxy does: Prometheus metrics with labels from small closed sets, and one
// access-log line per connection, at its end. Addresses, hosts and identities go into the log only, so that no peer can
// grow the metrics.
package telemetry

import (
	"crypto/x509"
	"log/slog"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/authz"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/reason"
	"github.com/meshless-dev/meshless/proxy/redirect"
)

// Security is how the bytes of a connection travel between pods.
type Security string

// The kinds of security.
const (
	MutualTLS      Security = "mutual_tls"
	Plaintext      Security = "plaintext"       // to or from a member of the mesh, on a port that takes it
	TLSPassthrough Security = "tls_passthrough" // the app's own TLS from a stranger, on a port that takes it
	Passthrough    Security = "passthrough"     // to a destination outside the mesh
)

// Detection is what arrived on a port that takes plaintext beside mutual TLS.
type Detection string

// The detections.
const (
	DetectedMutualTLS Detection = "mutual_tls" // a hello with our ALPN
	DetectedTLS       Detection = "tls"        // another hello: the app's own TLS, passed on
	DetectedPlaintext Detection = "plaintext"
	DetectedNoData    Detection = "no_data" // nothing: the server speaks first
	DetectionFailed   Detection = "failed"
)

// Telemetry is shared by all parts of a proxy. Make it with New.
type Telemetry struct {
	Log      *slog.Logger
	Registry *prometheus.Registry

	opened, closed, refused, handshakeFailures *prometheus.CounterVec
	sent, received                             *prometheus.CounterVec
	denials, detections, lookups               *prometheus.CounterVec
	trials, renewals                           *prometheus.CounterVec
	open, limit, caNotAfter                    *prometheus.GaugeVec
	handshakes                                 *prometheus.HistogramVec
	reloadFailures, acceptErrors               prometheus.Counter
	passedOn, unanswered                       prometheus.Counter
	generation, reloadFailing                  prometheus.Gauge
	leafNotBefore, leafNotAfter                prometheus.Gauge

	lines lineLimits
	told  destinations

	rulesMissing *prometheus.GaugeVec
	rulesChecks  *prometheus.CounterVec
}

// New makes a registry of its own, with the metrics of the Go runtime and of the process.
func New(log *slog.Logger) *Telemetry {
	t := &Telemetry{Log: log, Registry: prometheus.NewRegistry()}
	t.makeConnections()
	t.makeFiles()
	t.makeRules()
	t.gauge("build_info", "Always 1.", "version").WithLabelValues(api.Version).Set(1)
	t.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	t.begin()
	return t
}

func (t *Telemetry) counter(name, help string, labels ...string) *prometheus.CounterVec {
	return promauto.With(t.Registry).NewCounterVec(prometheus.CounterOpts{Name: "meshless_" + name, Help: help}, labels)
}

func (t *Telemetry) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return promauto.With(t.Registry).NewGaugeVec(prometheus.GaugeOpts{Name: "meshless_" + name, Help: help}, labels)
}

func (t *Telemetry) makeConnections() {
	t.opened = t.counter("connections_opened_total", "Connections that began to carry data.", "direction", "security")
	t.closed = t.counter("connections_closed_total", "Connections that carried data and ended.", "direction", "security", "reason")
	t.refused = t.counter("connections_refused_total", "Connections that ended before they carried data.", "direction", "reason")
	t.handshakeFailures = t.counter("handshake_failures_total", "TLS handshakes that failed, by reason.", "direction", "reason")
	t.denials = t.counter("denials_total", "Peers that the authorization rules denied, or in a dry run would have denied.", "reason", "enforced")
	t.detections = t.counter("protocol_detections_total", "Protocols detected on ports that take plaintext beside mutual TLS.", "result")
	t.lookups = t.counter("dns_lookups_total", "Addresses looked up in DNS, by result.", "result")
	t.trials = t.counter("mutual_tls_trials_total", "Servers at which mutual TLS was tried first, by result.", "result")
	t.renewals = t.counter("renewals_total", "Handshakes by which open connections outlive their leaves, by result.", "direction", "result")
	t.passedOn = t.counter("passed_on_total", "Connections that left in plaintext after a trial of mutual TLS.").WithLabelValues()
	t.unanswered = t.counter("unanswered_plaintext_total", "Plaintext connections into the networks of the cluster that the server closed without an answer.").WithLabelValues()
	t.sent = t.counter("sent_bytes_total", "Bytes sent to the client, which opened the connection.", "direction", "security")
	t.received = t.counter("received_bytes_total", "Bytes received from the client, which opened the connection.", "direction", "security")
	t.open = t.gauge("connections_open", "Connections that carry data now.", "direction", "security")
	t.limit = t.gauge("connections_limit", "Connections at once, of both directions together, as memory and descriptors allow.", "direction")
	t.handshakes = promauto.With(t.Registry).NewHistogramVec(prometheus.HistogramOpts{Name: "meshless_handshake_duration_seconds", Help: "Duration of completed TLS handshakes.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5}}, []string{"direction"})
	t.acceptErrors = t.counter("accept_errors_total", "Failed accepts, such as for lack of file descriptors.").WithLabelValues()
}

func (t *Telemetry) makeFiles() {
	t.generation = t.gauge("generation", "Number of the generation of files in use, 0 before the first.").WithLabelValues()
	t.reloadFailures = t.counter("reload_failures_total", "Generations of files that were refused.").WithLabelValues()
	t.reloadFailing = t.gauge("reload_failing", "1 while the newest generation of files is refused and the last good one is in use.").WithLabelValues()
	t.leafNotBefore = t.gauge("leaf_not_before_timestamp_seconds", "Start of validity of the certificate in use.").WithLabelValues()
	t.leafNotAfter = t.gauge("leaf_not_after_timestamp_seconds", "When the certificate in use expires.").WithLabelValues()
	t.caNotAfter = t.gauge("ca_not_after_timestamp_seconds", "When the first, and when the last, authority of the bundle expires.", "which")
}

// begin lets the series that alerts look at start at 0: a series that appears with its first count has no increase that
// anyone can see.
func (t *Telemetry) begin() {
	for _, d := range []reason.Direction{reason.Inbound, reason.Outbound} {
		for _, s := range []Security{MutualTLS, Plaintext, TLSPassthrough, Passthrough} {
			t.opened.WithLabelValues(string(d), string(s))
		}
		for _, r := range reason.Refusals {
			t.refused.WithLabelValues(string(d), string(r))
		}
		for _, result := range allRenewals {
			t.renewals.WithLabelValues(string(d), string(result))
		}
		for _, cause := range reason.Causes {
			t.handshakeFailures.WithLabelValues(string(d), string(cause))
		}
	}
	for _, chain := range redirect.Chains {
		t.rulesMissing.WithLabelValues(string(chain))
	}
	for _, result := range redirect.Results {
		t.rulesChecks.WithLabelValues(string(result))
	}
	for _, denial := range authz.Reasons {
		for _, enforced := range []bool{true, false} {
			t.denials.WithLabelValues(string(denial), strconv.FormatBool(enforced))
		}
	}
	for _, result := range allTrials {
		t.trials.WithLabelValues(string(result))
	}
	for _, result := range []Detection{DetectedMutualTLS, DetectedTLS, DetectedPlaintext, DetectedNoData, DetectionFailed} {
		t.detections.WithLabelValues(string(result))
	}
}

// Generation records the generation in use.
func (t *Telemetry) Generation(s *identity.Snapshot) {
	t.generation.Set(float64(s.Number))
	t.reloadFailing.Set(0)
	t.leafNotBefore.Set(float64(s.Leaf.NotBefore.Unix()))
	t.leafNotAfter.Set(float64(s.Leaf.NotAfter.Unix()))
	byEnd := func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }
	authorities := s.Bundle.Authorities()
	t.caNotAfter.WithLabelValues("soonest").Set(float64(slices.MinFunc(authorities, byEnd).NotAfter.Unix()))
	t.caNotAfter.WithLabelValues("latest").Set(float64(slices.MaxFunc(authorities, byEnd).NotAfter.Unix()))
}

// ReloadFailed counts a refused generation.
func (t *Telemetry) ReloadFailed() {
	t.reloadFailures.Inc()
	t.reloadFailing.Set(1)
}

// CountLostLines counts the lines of the log that were lost, as lost tells.
func (t *Telemetry) CountLostLines(lost func() uint64) {
	promauto.With(t.Registry).NewCounterFunc(prometheus.CounterOpts{Name: "meshless_log_lines_lost_total",
		Help: "Lines of the log that were lost, since standard error was not read or could not be written."}, func() float64 { return float64(lost()) })
}

// Limit records how many connections a direction takes at once.
func (t *Telemetry) Limit(d reason.Direction, connections int) {
	t.limit.WithLabelValues(string(d)).Set(float64(connections))
}

// AcceptFailed counts and logs a failed accept.
func (t *Telemetry) AcceptFailed(err error) {
	t.acceptErrors.Inc()
	t.Log.Warn("accept failed, retrying", "error", err.Error())
}

// Waiting shows how many connections of a direction wait. Only the first server of a direction is shown.
func (t *Telemetry) Waiting(d reason.Direction, count func() int) {
	_ = t.Registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshless_connections_waiting", Help: "Connections that wait for their turn, or for their first byte.",
		ConstLabels: prometheus.Labels{"direction": string(d)}}, func() float64 { return float64(count()) }))
}

// GaveUp logs that connections were ended in favor of others.
func (t *Telemetry) GaveUp(who string, n int) {
	if more, ok := t.lines.allow("gave up"); ok {
		t.Log.Warn("the proxy is full: idle connections of who holds most are given up", append([]any{"holder", who, "connections", n}, more...)...)
	}
}

// Lookup counts a DNS lookup.
func (t *Telemetry) Lookup(result string) { t.lookups.WithLabelValues(result).Inc() }

// Detected counts what arrived on a port that takes plaintext beside mutual TLS.
func (t *Telemetry) Detected(d Detection) { t.detections.WithLabelValues(string(d)).Inc() }
