package connection

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/authz"
	"github.com/meshless-dev/meshless/proxy/reason"
	"github.com/meshless-dev/meshless/proxy/relay"
)

func second[A any](_ A, err error) error { return err }

func TestCauses(t *testing.T) {
	for want, err := range map[reason.Cause]error{
		"expired":        fmt.Errorf("wrapped: %w", &svid.Error{Reason: svid.Expired}),
		"wrong_identity": second(meshDestination{}.accept(spiffeid.RequireFromString("spiffe://td/other"), nil)),
		"not_mutual":     errNotMutual,
		"timeout":        &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded},
		"peer_refused":   &net.OpError{Op: "remote error", Err: tls.AlertError(42)},
		"peer_closed":    &net.OpError{Op: "read", Err: syscall.ECONNRESET},
		"not_tls":        tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"},
		"no_certificate": errors.New("tls: client didn't provide a certificate"),
	} {
		if got := reason.Of(handshakeFailed(err)); got.Reason != reason.HandshakeFailed || got.Cause != want {
			t.Errorf("%v: got %+v, want %s", err, got, want)
		}
	}
	if got := causeOf(&net.OpError{Op: "local error", Err: errors.New("tls: bad record MAC")}); got != "peer_refused" {
		t.Errorf("an alert of OpenSSL in the clear: got %s", got)
	}
	for _, err := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE} {
		if got := causeOf(err); got != "peer_closed" {
			t.Errorf("%v: got %s", err, got)
		}
	}
	if got := causeOf(context.DeadlineExceeded); got != "timeout" {
		t.Errorf("deadline of the context: got %s", got)
	}
}

// TestDenialIsNoHandshakeFailure: the policy has spoken, TLS has not failed.
func TestDenialIsNoHandshakeFailure(t *testing.T) {
	if got := reason.Of(handshakeFailed(fmt.Errorf("tls: %w", &authz.Denial{Reason: authz.NoRule}))); got.Reason != reason.Denied || got.Cause != "" {
		t.Errorf("got %+v", got)
	}
}

func TestEnds(t *testing.T) {
	shutDown := reason.New(reason.ShutDown, io.EOF)
	for err, want := range map[error]reason.Reason{
		shutDown:             reason.ShutDown,
		relay.ErrIdle:        reason.Idle,
		relay.ErrMemory:      reason.MemoryLimit,
		relay.ErrStuckRecord: reason.StuckRecord,
		&net.OpError{Op: "read", Err: syscall.ETIMEDOUT}: reason.PeerUnresponsive, // keepalive
		relay.ErrTruncated:  reason.Truncated,
		io.ErrUnexpectedEOF: reason.Truncated,
		&net.OpError{Op: "remote error", Err: tls.AlertError(42)}: reason.Alert,
		&net.OpError{Op: "local error", Err: tls.AlertError(20)}:  reason.Failed, // a forged record is no alert
		&net.OpError{Op: "read", Err: syscall.ECONNRESET}:         reason.Reset,
		syscall.EPIPE:    reason.Reset,
		syscall.ENOTCONN: reason.Reset,
		syscall.EMFILE:   reason.Failed,
	} {
		if got := reason.Of(ended(err)).Reason; got != want {
			t.Errorf("%v: got %s, want %s", err, got, want)
		}
	}
	if err := ended(nil); err != nil {
		t.Errorf("an orderly end is the error %v", err)
	}
}
