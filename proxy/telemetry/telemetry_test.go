package telemetry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/time/rate"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/authz"
)

func TestHandshakeReason(t *testing.T) {
	for want, err := range map[string]error{
		"expired":        fmt.Errorf("wrapped: %w", &svid.Error{Reason: svid.Expired}),
		"wrong_identity": &WrongIdentity{"other"},
		"not_mutual":     ErrNotMutual,
		"timeout":        &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded},
		"peer_refused":   &net.OpError{Op: "remote error", Err: tls.AlertError(42)},
		"peer_closed":    &net.OpError{Op: "read", Err: syscall.ECONNRESET},
		"not_tls":        tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"},
		"no_certificate": errors.New("tls: client didn't provide a certificate"),
	} {
		if got := handshakeReason(err); got != want {
			t.Errorf("%v: got %s, want %s", err, got, want)
		}
	}
	if got := handshakeReason(&net.OpError{Op: "local error", Err: errors.New("tls: bad record MAC")}); got != "peer_refused" {
		t.Errorf("an alert of OpenSSL in the clear: got %s", got)
	}
	for _, err := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE} {
		if got := handshakeReason(err); got != "peer_closed" {
			t.Errorf("%v: got %s", err, got)
		}
	}
	if got := handshakeReason(context.DeadlineExceeded); got != "timeout" {
		t.Errorf("deadline of the context: got %s", got)
	}
}

func TestConnection(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, nil)))
	denied := tele.Begin(Inbound, netip.MustParseAddrPort("[::ffff:10.0.0.1]:5000"))
	denied.HandshakeFailed(&authz.Denial{Reason: authz.NoRule})
	if got := testutil.ToFloat64(tele.denials.WithLabelValues("no_rule", "true")); got != 1 {
		t.Errorf("%v denials", got)
	}
	if got := sum(t, tele.handshakeFailures); got != 0 {
		t.Error("a denial counts as a failed handshake")
	}
	c := tele.Begin(Outbound, netip.MustParseAddrPort("10.0.0.2:5000"))
	c.Service, c.Self, c.Peer = "web", "spiffe://td/client", "spiffe://td/server"
	c.Open(MutualTLS)
	if got := testutil.ToFloat64(tele.open.WithLabelValues("outbound", "mutual_tls")); got != 1 {
		t.Errorf("%v open", got)
	}
	c.Received(10)
	c.Sent(20)
	c.Close(10, 20, "done", nil)
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
		"meshless_handshake_failures_total": 2 * len(handshakeReasons), "meshless_denials_total": 2 * len(authz.Reasons), "meshless_detections_total": 5,
		"meshless_accept_errors_total": 1, "meshless_reload_failures_total": 1, "meshless_reload_failing": 1,
	} {
		if got, err := testutil.GatherAndCount(tele.Registry, name); err != nil || got != want {
			t.Errorf("%s has %d series (%v), want %d", name, got, err, want)
		}
	}
}

// TestHints: who is paged is told where to look, for every failure that an operator can cause.
func TestHints(t *testing.T) {
	for _, d := range []Direction{Inbound, Outbound} {
		for _, reason := range []string{reasonTimeout, reasonEnded, reasonProtocol, reasonAlert, "unknown_authority", "expired", "not_yet_valid", "revoked", "connect", "alert"} {
			if hints[d][reason] == "" {
				t.Errorf("%s %s has no hint", d, reason)
			}
		}
	}
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, nil)))
	tele.Begin(Outbound, netip.MustParseAddrPort("10.0.0.2:5000")).HandshakeFailed(io.EOF)
	for _, want := range []string{`"handshake":"peer_closed"`, `"hint":"the server closed during the handshake: is it outside the mesh`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log has no %s: %s", want, out.String())
		}
	}
}

func TestDryRunDenial(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, nil)))
	tele.Begin(Inbound, netip.MustParseAddrPort("10.0.0.2:5000")).Denied(&authz.Denial{Reason: authz.NoRule}, false)
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
		tele.Begin(Inbound, netip.MustParseAddrPort("10.0.0.2:5000")).Refuse("source_limit", errors.New("too many"))
	}
	if got := testutil.ToFloat64(tele.refused.WithLabelValues("inbound", "source_limit")); got != flood {
		t.Errorf("%v of %d are counted", got, flood)
	}
	if lines := strings.Count(out.String(), "\n"); lines < floodBurst || lines > flood/2 {
		t.Errorf("%d lines are logged", lines)
	}
	tele.floods.of("inbound source_limit").lines.SetLimit(rate.Inf)
	out.Reset()
	tele.Begin(Inbound, netip.MustParseAddrPort("10.0.0.2:5000")).Refuse("source_limit", errors.New("too many"))
	if !strings.Contains(out.String(), `"unlogged":`) {
		t.Errorf("the log does not say how many are missing: %s", out.String())
	}
}

// TestShutOutIsAWarning: the client of TLS 1.3 that a server shuts out has finished its handshake; at level warn its
// log must say so all the same.
func TestShutOutIsAWarning(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})))
	for reason, logged := range map[string]bool{"alert": true, "no_longer_accepted": true, "peer_vanished": true, "done": false, "reset": false} {
		out.Reset()
		c := tele.Begin(Outbound, netip.MustParseAddrPort("10.0.0.2:5000"))
		c.Open(MutualTLS)
		c.Close(1, 1, reason, errors.New("remote error: tls: bad certificate"))
		if got := out.Len() > 0; got != logged {
			t.Errorf("%s: logged %v", reason, got)
		}
	}
}

// TestOneFloodHidesNoOther: a denial is logged although something else floods.
func TestOneFloodHidesNoOther(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, nil)))
	for range 2 * floodBurst {
		tele.Begin(Inbound, netip.MustParseAddrPort("10.0.0.2:5000")).Refuse("source_limit", errors.New("too many"))
	}
	tele.Begin(Inbound, netip.MustParseAddrPort("10.0.0.3:5000")).HandshakeFailed(&authz.Denial{Reason: authz.NoRule})
	if !strings.Contains(out.String(), `"reason":"denied"`) {
		t.Error("the denial is not in the log")
	}
}

// TestLogLinesAreBounded: a certificate that nobody has verified can hold names of any length.
func TestLogLinesAreBounded(t *testing.T) {
	var out bytes.Buffer
	tele := New(slog.New(slog.NewJSONHandler(&out, nil)))
	tele.Begin(Inbound, netip.MustParseAddrPort("10.0.0.3:5000")).HandshakeFailed(&svid.Error{Reason: svid.NotAnSVID, Detail: strings.Repeat("spiffe://é/", 1<<16)})
	if out.Len() > 3*maxError {
		t.Errorf("the line has %d bytes", out.Len())
	}
}
