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

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/policy"
)

func TestHandshakeReason(t *testing.T) {
	for want, err := range map[string]error{
		"expired":        fmt.Errorf("wrapped: %w", &svid.Error{Reason: svid.Expired}),
		"wrong_identity": &WrongIdentity{"other"},
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
	denied.HandshakeFailed(&policy.Denial{Reason: policy.NoRule})
	if got := testutil.ToFloat64(tele.denials.WithLabelValues("no_rule")); got != 1 {
		t.Errorf("%v denials", got)
	}
	if got := testutil.CollectAndCount(tele.handshakeFailures); got != 0 {
		t.Error("a denial counts as a failed handshake")
	}
	c := tele.Begin(Outbound, netip.MustParseAddrPort("10.0.0.2:5000"))
	c.Host = "web"
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
	for _, want := range []string{`"src":"10.0.0.1:5000"`, `"reason":"denied"`, `"host":"web"`, `"bytes_received":10,"bytes_sent":20`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log lacks %s:\n%s", want, out.String())
		}
	}
}
