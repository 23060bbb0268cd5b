package telemetry

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/time/rate"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/authz"
	"github.com/meshless-dev/meshless/proxy/reason"
)

func TestConnection(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, nil)))
	denied := tele.Begin(reason.Inbound, netip.MustParseAddrPort("[::ffff:10.0.0.1]:5000"))
	denied.Refuse(reason.New(reason.Denied, &authz.Denial{Reason: authz.NoRule}))
	if got := testutil.ToFloat64(tele.denials.WithLabelValues("no_rule", "true")); got != 1 {
		t.Errorf("%v denials", got)
	}
	if got := sum(t, tele.handshakeFailures); got != 0 {
		t.Error("a denial counts as a failed handshake")
	}
	c := tele.Begin(reason.Outbound, netip.MustParseAddrPort("10.0.0.2:5000"))
	c.Service, c.Self, c.Peer = "web", "spiffe://td/client", "spiffe://td/server"
	c.Open(MutualTLS)
	if got := testutil.ToFloat64(tele.open.WithLabelValues("outbound", "mutual_tls")); got != 1 {
		t.Errorf("%v open", got)
	}
	c.Received(10)
	c.Sent(20)
	c.Close(10, 20, nil)
	if got := testutil.ToFloat64(tele.open.WithLabelValues("outbound", "mutual_tls")); got != 0 {
		t.Errorf("%v open after the end", got)
	}
	for _, want := range []string{`"src":"10.0.0.1:5000"`, `"reason":"denied"`, `"service":"web"`, `"src_identity":"spiffe://td/client"`, `"dst_identity":"spiffe://td/server"`, `"bytes_received":10,"bytes_sent":20`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log lacks %s:\n%s", want, out.String())
		}
	}
}

// sum adds up all series.
func sum(t *testing.T, c prometheus.Collector) (total float64) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			total += m.GetCounter().GetValue()
		}
	}
	return total
}

// TestSeriesBeginAtZero: an alert on an increase sees the first failure only if the series was there before.
func TestSeriesBeginAtZero(t *testing.T) {
	tele := New(slog.New(slog.DiscardHandler))
	for name, want := range map[string]int{
		"meshless_handshake_failures_total": 2 * len(reason.Causes), "meshless_connections_refused_total": 2 * len(reason.Refusals), "meshless_denials_total": 2 * len(authz.Reasons), "meshless_protocol_detections_total": 5,
		"meshless_accept_errors_total": 1, "meshless_reload_failures_total": 1, "meshless_reload_failing": 1,
	} {
		if got, err := testutil.GatherAndCount(tele.Registry, name); err != nil || got != want {
			t.Errorf("%s has %d series (%v), want %d", name, got, err, want)
		}
	}
}

// TestHintIsLogged: who is paged is told where to look.
func TestHintIsLogged(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, nil)))
	tele.Begin(reason.Outbound, netip.MustParseAddrPort("10.0.0.2:5000")).Refuse(&reason.Error{Reason: reason.HandshakeFailed, Cause: reason.PeerClosed, Err: io.EOF})
	for _, want := range []string{`"handshake_failure":"peer_closed"`, `"hint":"the server closed during the handshake: is it outside the mesh`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log has no %s: %s", want, out.String())
		}
	}
}

func TestDryRunDenial(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, nil)))
	tele.Begin(reason.Inbound, netip.MustParseAddrPort("10.0.0.2:5000")).Denied(&authz.Denial{Reason: authz.NoRule}, false)
	if got := testutil.ToFloat64(tele.denials.WithLabelValues("no_rule", "false")); got != 1 {
		t.Errorf("%v denials of the dry run", got)
	}
	if !strings.Contains(out.String(), `"msg":"connection would be denied"`) {
		t.Errorf("log: %s", out.String())
	}
}

// TestFloodOfRefusals: all are counted, few are logged, and how many were not is said.
func TestFloodOfRefusals(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, nil)))
	const flood = 5000
	for range flood {
		tele.Begin(reason.Inbound, netip.MustParseAddrPort("10.0.0.2:5000")).Refuse(reason.New(reason.SourceLimit, errors.New("too many")))
	}
	if got := testutil.ToFloat64(tele.refused.WithLabelValues("inbound", "source_limit")); got != flood {
		t.Errorf("%v of %d are counted", got, flood)
	}
	if lines := strings.Count(out.String(), "\n"); lines < lineBurst || lines > flood/2 {
		t.Errorf("%d lines are logged", lines)
	}
	tele.lines.of("inbound source_limit").lines.SetLimit(rate.Inf)
	out.Reset()
	tele.Begin(reason.Inbound, netip.MustParseAddrPort("10.0.0.2:5000")).Refuse(reason.New(reason.SourceLimit, errors.New("too many")))
	if !strings.Contains(out.String(), `"suppressed":`) {
		t.Errorf("the log does not say how many are missing: %s", out.String())
	}
}

// TestShutOutIsAWarning: the client of TLS 1.3 that a server shuts out has finished its handshake; at level warn its
// log must say so all the same.
func TestShutOutIsAWarning(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})))
	for r, logged := range map[reason.Reason]bool{reason.Alert: true, reason.NoLongerAccepted: true, reason.PeerUnresponsive: true, reason.Done: false, reason.Reset: false} {
		out.Reset()
		c := tele.Begin(reason.Outbound, netip.MustParseAddrPort("10.0.0.2:5000"))
		c.Open(MutualTLS)
		c.Close(1, 1, reason.New(r, errors.New("remote error: tls: bad certificate")))
		if got := out.Len() > 0; got != logged {
			t.Errorf("%s: logged %v", r, got)
		}
	}
}

// TestOneFloodHidesNoOther: a denial is logged although something else floods.
func TestOneFloodHidesNoOther(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, nil)))
	for range 2 * lineBurst {
		tele.Begin(reason.Inbound, netip.MustParseAddrPort("10.0.0.2:5000")).Refuse(reason.New(reason.SourceLimit, errors.New("too many")))
	}
	tele.Begin(reason.Inbound, netip.MustParseAddrPort("10.0.0.3:5000")).Refuse(reason.New(reason.Denied, &authz.Denial{Reason: authz.NoRule}))
	if !strings.Contains(out.String(), `"reason":"denied"`) {
		t.Error("the denial is not in the log")
	}
}

// TestLogLinesAreBounded: a certificate that nobody has verified can hold names of any length.
func TestLogLinesAreBounded(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, nil)))
	tele.Begin(reason.Inbound, netip.MustParseAddrPort("10.0.0.3:5000")).Refuse(reason.New(reason.HandshakeFailed, &svid.Error{Reason: svid.NotAnSVID, Detail: strings.Repeat("spiffe://é/", 1<<16)}))
	if out.Len() > 3*maxError {
		t.Errorf("the line has %d bytes", out.Len())
	}
}
