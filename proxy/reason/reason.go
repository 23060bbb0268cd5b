// Package reason is why connections are refused, and why they end: closed sets of words, which are labels of metrics
// and fields of the log. For each it knows how loudly the log says it, and where an operator should look.
package reason

import (
	"errors"
	"log/slog"

	"github.com/meshless-dev/meshless/internal/svid"
)

// Direction is a side of the proxy.
type Direction string

// The directions.
const (
	Inbound  Direction = "inbound"
	Outbound Direction = "outbound"
)

// Reason is why a connection was refused, or why it ended.
type Reason string

// Reasons of connections that never carried data.
const (
	ConnectFailed        Reason = "connect_failed"   // to where it should go
	ConnectionLimit      Reason = "connection_limit" // of the budget: no place came free in time
	Denied               Reason = "denied"           // by the policy
	UncertainDestination Reason = "uncertain_destination"
	DetectionFailed      Reason = "detection_failed" // on a port that takes plaintext beside mutual TLS
	ForeignAddress       Reason = "foreign_address"
	HandshakeFailed      Reason = "handshake_failed" // its Cause says why
	NotReady             Reason = "not_ready"
	OriginalDestination  Reason = "original_destination" // is unknown
	PlaintextLimit       Reason = "plaintext_limit"
	ProxyProtocol        Reason = "proxy_protocol" // the app did not take the header
	ReservedPort         Reason = "reserved_port"
	SourceLimit          Reason = "source_limit"        // no more can wait, and of this source wait most
	UnknownDestination   Reason = "unknown_destination" // and outbound.unknown is Deny
)

// Refusals are all reasons of connections that never carried data.
var Refusals = []Reason{
	ConnectFailed, ConnectionLimit, Denied, UncertainDestination, DetectionFailed, ForeignAddress, HandshakeFailed, NotReady, OriginalDestination, PlaintextLimit, ProxyProtocol,
	ReservedPort, SourceLimit, UnknownDestination,
}

// Reasons of the end of connections that carried data.
const (
	Done      Reason = "done"      // both directions ended in order
	Reset     Reason = "reset"     // one side reset it, or was reset
	Truncated Reason = "truncated" // TLS ended without close_notify
	// the TLS peer sent an alert, such as that it refuses our certificate
	Alert            Reason = "alert"
	Idle             Reason = "idle_timeout"       // nothing moved for the idle timeout
	MemoryLimit      Reason = "memory_limit"       // it held most, when all held too much
	StuckRecord      Reason = "stuck_record"       // the TLS peer began a record and did not finish it
	GivenUp          Reason = "given_up"           // it was idle, and others wanted its place
	NoLongerAccepted Reason = "no_longer_accepted" // by a new generation, or since a certificate expired
	PeerUnresponsive Reason = "peer_unresponsive"  // it acknowledges neither what was sent nor keepalive
	ShutDown         Reason = "shut_down"          // the drain timeout is over
	Failed           Reason = "failed"             // anything else
)

// Cause is why a handshake failed: one of svid.Reason, or one of those below.
type Cause string

// Causes beside those of package svid.
const (
	Timeout       Cause = "timeout"
	PeerRefused   Cause = "peer_refused" // the other side sent an alert: it did not accept us
	PeerClosed    Cause = "peer_closed"
	NotTLS        Cause = "not_tls" // plaintext, or a version below 1.3
	WrongIdentity Cause = "wrong_identity"
	NotMutual     Cause = "not_mutual" // the server did not ask who we are
	TooLarge      Cause = "too_large"  // the handshake is larger than any with certificates of a mesh
	// mutual TLS was tried first, and the server has neither spoken it nor proved that it is not of the mesh
	Inconclusive Cause = "inconclusive"
)

// Causes are all causes.
var Causes = []Cause{
	Cause(svid.NoCertificate), Cause(svid.Malformed), Cause(svid.NotYetValid), Cause(svid.Expired), Cause(svid.UnknownAuthority), Cause(svid.WrongUsage),
	Cause(svid.NotAnSVID), Cause(svid.WrongTrustDomain), Cause(svid.Revoked), Timeout, PeerRefused, PeerClosed, NotTLS, WrongIdentity, NotMutual, TooLarge,
	Inconclusive,
}

// Error is why a connection carries no data, or no more.
type Error struct {
	Reason Reason
	Cause  Cause // of HandshakeFailed alone
	Err    error // the details, for the log
}

// New is an error with a reason.
func New(r Reason, err error) error { return &Error{Reason: r, Err: err} }

// Of is the Error in err's chain. Without one it is Failed.
func Of(err error) *Error {
	e := new(Error)
	if !errors.As(err, &e) {
		e = &Error{Reason: Failed, Err: err}
	}
	return e
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap is what happened below.
func (e *Error) Unwrap() error { return e.Err }

// Level is that of the log line. The end of a connection that carried data is a warning only where somebody was shut
// out, where a peer does not respond, or where a limit was reached. The client of TLS 1.3 learns that it is shut out
// only after its handshake.
func (r Reason) Level() slog.Level {
	switch r {
	case Done, Reset, Truncated, Idle, ShutDown, Failed:
		return slog.LevelInfo
	}
	return slog.LevelWarn
}
