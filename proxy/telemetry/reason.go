package telemetry

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/policy"
)

// Reasons of failed handshakes beside those of the verifier (svid.Reason).
const (
	reasonTimeout  = "timeout"
	reasonAlert    = "peer_refused" // the other side sent an alert: it did not like us
	reasonEnded    = "peer_closed"
	reasonProtocol = "not_tls" // plaintext, or a version below 1.3
	reasonDenied   = "denied"
	reasonIdentity = "wrong_identity"
)

// WrongIdentity is the refusal of a server that is a member of the mesh, but not one that may answer for the destination.
type WrongIdentity struct{ Detail string }

func (w *WrongIdentity) Error() string { return w.Detail }

// HandshakeFailed counts a failed handshake and ends the connection's record.
func (c *Connection) HandshakeFailed(err error) {
	if d := new(policy.Denial); errors.As(err, &d) {
		c.t.denials.WithLabelValues(string(d.Reason)).Inc()
		c.Peer = d.Peer.String()
		c.Refuse(reasonDenied, err)
		return
	}
	c.t.handshakeFailures.WithLabelValues(string(c.Direction), handshakeReason(err)).Inc()
	c.Refuse("handshake", err)
}

func handshakeReason(err error) string {
	var refusal *svid.Error
	var wrong *WrongIdentity
	var remote *net.OpError
	switch {
	case errors.As(err, &refusal):
		return string(refusal.Reason)
	case errors.As(err, &wrong):
		return reasonIdentity
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return reasonTimeout
	case errors.As(err, &remote) && remote.Op == "remote error":
		return reasonAlert
	case strings.Contains(err.Error(), "didn't provide a certificate"): // crypto/tls has no typed error for it; only a label depends on it
		return string(svid.NoCertificate)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return reasonEnded
	}
	return reasonProtocol
}
