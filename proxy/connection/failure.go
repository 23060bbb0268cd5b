package connection

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/authz"
	"github.com/meshless-dev/meshless/proxy/reason"
	"github.com/meshless-dev/meshless/proxy/relay"
)

// badRecordMAC is what crypto/tls makes of an alert that is not encrypted, as OpenSSL sends it when it refuses a
// server's certificate (golang/go#76767). Its type is not exported; only a label depends on the text.
const badRecordMAC = "tls: bad record MAC"

// errNotMutual is a server that proves its identity and does not ask for ours.
var errNotMutual = &reason.Error{Reason: reason.HandshakeFailed, Cause: reason.NotMutual,
	Err: errors.New("the server asks for no client certificate: TLS would not be mutual")}

// handshakeFailed gives the error of a handshake its reason and cause, if it has none.
func handshakeFailed(err error) error {
	if e := new(reason.Error); errors.As(err, &e) {
		return err
	}
	if d := new(authz.Denial); errors.As(err, &d) {
		return reason.New(reason.Denied, err)
	}
	return &reason.Error{Reason: reason.HandshakeFailed, Cause: causeOf(err), Err: err}
}

func causeOf(err error) reason.Cause {
	var refusal *svid.Error
	var op *net.OpError
	switch {
	case errors.As(err, &refusal):
		return reason.Cause(refusal.Reason)
	case errors.Is(err, relay.ErrLargeHandshake):
		return reason.TooLarge
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return reason.Timeout
	case isAlert(err), errors.As(err, &op) && op.Op == "local error" && strings.HasSuffix(err.Error(), badRecordMAC):
		return reason.PeerRefused
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		// crypto/tls has no typed error for it; only a label depends on it
		return reason.Cause(svid.NoCertificate)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return reason.PeerClosed
	}
	return reason.NotTLS
}

// isAlert tells whether the peer has sent an alert of TLS.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// ended gives the error of a relayed connection its reason. One that the registry has aborted has a reason already.
func ended(err error) error {
	e := new(reason.Error)
	switch {
	case err == nil, errors.As(err, &e):
		return err
	case errors.Is(err, relay.ErrIdle):
		return reason.New(reason.Idle, err)
	case errors.Is(err, relay.ErrMemory):
		return reason.New(reason.MemoryLimit, err)
	case errors.Is(err, relay.ErrStuckRecord):
		return reason.New(reason.StuckRecord, err)
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return reason.New(reason.PeerUnresponsive, err) // keepalive
	case errors.Is(err, relay.ErrTruncated), errors.Is(err, io.ErrUnexpectedEOF):
		return reason.New(reason.Truncated, err)
	case isAlert(err):
		return reason.New(reason.Alert, err)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ENOTCONN):
		return reason.New(reason.Reset, err)
	}
	return err
}
