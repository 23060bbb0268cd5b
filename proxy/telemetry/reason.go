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
	"github.com/meshless-dev/meshless/proxy/authz"
)

// Reasons of failed handshakes beside those of the verifier (svid.Reason).
const (
	reasonTimeout  = "timeout"
	reasonAlert    = "peer_refused" // the other side sent an alert: it did not like us
	reasonEnded    = "peer_closed"
	reasonProtocol = "not_tls" // plaintext, or a version below 1.3
	reasonDenied   = "denied"
	reasonIdentity = "wrong_identity"
	reasonOneSided = "not_mutual" // the server did not ask who we are
	reasonLarge    = "too_large"  // the handshake is larger than any with certificates of a mesh
)

// reasonHandshake is the reason of a refused connection whose handshake failed; why it did is counted by itself.
const reasonHandshake = "handshake"

// badRecordMAC is what crypto/tls makes of an alert that is not encrypted, as OpenSSL sends it when it refuses a
// server's certificate (golang/go#76767). Its type is not exported; only a label depends on the text.
const badRecordMAC = "tls: bad record MAC"

// WrongIdentity is the refusal of a server that is a member of the mesh, but not one that may answer for the
// destination.
type WrongIdentity struct{ Detail string }

func (w *WrongIdentity) Error() string { return w.Detail }

// ErrNotMutual is the refusal of a server that proves its identity and does not ask for ours.
var ErrNotMutual = errors.New("the server asks for no client certificate: TLS would not be mutual")

// ErrLargeHandshake ends a handshake that is larger than any with certificates of a mesh.
var ErrLargeHandshake = errors.New("the handshake is too large")

// HandshakeFailed counts a failed handshake and ends the connection's record.
func (c *Connection) HandshakeFailed(err error) {
	if d := new(authz.Denial); errors.As(err, &d) {
		c.Denied(d, true)
		c.Refuse(reasonDenied, err)
		return
	}
	c.t.handshakeFailures.WithLabelValues(string(c.Direction), handshakeReason(err)).Inc()
	c.Refuse(reasonHandshake, err)
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
	case errors.Is(err, ErrLargeHandshake):
		return reasonLarge
	case errors.Is(err, ErrNotMutual):
		return reasonOneSided
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return reasonTimeout
	case errors.As(err, &remote) && remote.Op == "remote error":
		return reasonAlert
	case errors.As(err, &remote) && remote.Op == "local error" && strings.HasSuffix(err.Error(), badRecordMAC):
		return reasonAlert
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		// crypto/tls has no typed error for it; only a label depends on it
		return string(svid.NoCertificate)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return reasonEnded
	}
	return reasonProtocol
}

// hintFor guesses why a connection failed and says where to look: it is read by somebody who was paged. It is empty
// where the error says it all.
func hintFor(d Direction, reason string, err error) string {
	if reason == reasonHandshake {
		reason = handshakeReason(err)
	}
	return hints[d][reason]
}

var hints = map[Direction]map[string]string{
	Inbound: {
		reasonTimeout:                 "the client connected and did not speak TLS in time: a port scan, a health check by TCP, or a client that waits for the server to speak first and is outside the mesh?",
		reasonEnded:                   "the client closed during the handshake: does it refuse our certificate (its log says why), is it a check by TCP alone, or is it outside the mesh and waits for the server to speak first (MySQL, SMTP)?",
		reasonProtocol:                "the client does not speak TLS 1.3: is it outside the mesh, or does its exclude-outbound-ports or -cidrs bypass its proxy? To let it in as plaintext: meshless.dev/permissive-ports",
		reasonAlert:                   "the client refuses our certificate: is it expired, or is the client's bundle older than our authority (synced from an earlier commit)?",
		string(svid.NoCertificate):    "the client has no certificate of the mesh: is it a TLS client outside the mesh?",
		string(svid.UnknownAuthority): "the client's certificate is of an authority that our bundle lacks: is it of another mesh, or were its Secret and our bundle synced from different commits?",
		string(svid.Expired):          "the client's certificate is expired: was it renewed in Git (meshless status) and synced?",
		string(svid.NotYetValid):      "the client's certificate is of the future: compare the clocks of the nodes",
		string(svid.Revoked):          "the client uses a key that is revoked: a stolen key, or its new Secret is not synced yet",
		"source_limit":                "one address opens many connections and authenticates none: a flood, or a health check by TCP of a load balancer?",
		"connect":                     "the app does not listen there: is it starting, or bound to 127.0.0.1 only?",
		"alert":                       "the client ended the connection with a TLS alert: does it refuse our certificate or identity? Its log says why",
	},
	Outbound: {
		reasonTimeout:                 "the server accepted the connection and did not speak TLS: is it outside the mesh although the map lists it, or is its proxy stopped?",
		reasonEnded:                   "the server closed during the handshake: is it outside the mesh, is its proxy not ready, or does it refuse us?",
		reasonProtocol:                "the server does not speak TLS 1.3: was it rendered without the function (has the pod a meshless-proxy?), was its pod started before, or does the port bypass its proxy?",
		reasonAlert:                   "the server refuses us: its log says why (revoked, denied by authorization, or a bundle older than our authority)",
		reasonIdentity:                "another workload answers at this address: do selectors of two Services overlap, or are map and Services synced from different commits?",
		string(svid.UnknownAuthority): "the server's certificate is of an authority that our bundle lacks: were its Secret and our bundle synced from different commits?",
		string(svid.Expired):          "the server's certificate is expired: was it renewed in Git (meshless status) and synced?",
		string(svid.NotYetValid):      "the server's certificate is of the future: compare the clocks of the nodes",
		string(svid.Revoked):          "the server uses a key that is revoked: a stolen key, or its new Secret is not synced yet",
		"alert":                       "the server refused us after its side of the handshake: its log says why (revoked, denied by authorization, or a bundle older than our authority)",
		"connect":                     "nothing listens there, or a NetworkPolicy drops it",
		"destination":                 "whether this address is in the mesh is not certain, so it is closed: can this pod ask the cluster's DNS (CoreDNS, NetworkPolicies, port 53 by UDP and TCP)? What is outside for certain: outbound.excludeCIDRs",
		"unknown_destination":         "the address is outside the mesh, and outbound.unknown is Deny: outbound.excludeCIDRs, or put its Service into the mesh",
	},
}
