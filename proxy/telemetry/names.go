package telemetry

import (
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Names counts and logs what a proxy without redirect rules does for the names that its pod asks for. Make it with
// NewNames; there is one at most for a Telemetry.
type Names struct {
	t       *Telemetry
	queries *prometheus.CounterVec
}

// NewNames makes the metrics. The results are all that Answered counts; listeners is how many there are now on loopback
// addresses.
func (t *Telemetry) NewNames(results []string, listeners func() int) *Names {
	n := &Names{t: t, queries: t.counter("dns_queries_total", "DNS queries of a pod without redirect rules, by what became of them.", "result")}
	for _, result := range results {
		n.queries.WithLabelValues(result)
	}
	promauto.With(t.Registry).NewGaugeFunc(prometheus.GaugeOpts{Name: "meshless_loopback_listeners", Help: "Ports of loopback addresses on which a proxy without redirect rules listens for Services."},
		func() float64 { return float64(listeners()) })
	return n
}

// Answered counts a query.
func (n *Names) Answered(result string) { n.queries.WithLabelValues(result).Inc() }

// Refused logs that a name of the mesh got no answer. Of many only some are logged: an app asks again and again.
func (n *Names) Refused(name string, err error) {
	if more, ok := n.t.lines.allow("name refused"); ok {
		n.t.Log.Warn("name refused: it cannot be led to the proxy", append([]any{"name", truncate(name), "error", truncate(err.Error())}, more...)...)
	}
}

// Led logs that the proxy listens on a port of which this pod's app may want to listen as well.
func (n *Names) Led(service string, at netip.AddrPort) {
	if more, ok := n.t.lines.allow("app port"); ok {
		n.t.Log.Warn("a Service of the mesh has a port that this pod's app takes, too: an app that listens there on all addresses cannot start now; let it listen on the pod's address (or 127.0.0.1) alone",
			append([]any{"service", service, "listens", at.String()}, more...)...)
	}
}
