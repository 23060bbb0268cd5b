package connection

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/reason"
	"github.com/meshless-dev/meshless/proxy/registry"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// A server that closes without an answer may be a proxy of the mesh that ends, or one that is full. So many closes in a
// row, on connections that were accepted each time, are none of these.
const (
	closesOfForeign = 3
	closePause      = 250 * time.Millisecond // between two of them
)

// tryTLS tries mutual TLS first: nothing of the app is sent before the server has proved to be of the mesh, or not to
// be. What a server has proved is remembered. One connection tries at a time; others for the same address wait for what
// comes of it.
func (s *outbound) tryTLS(ctx context.Context, c *conn, m meshDestination) error {
	t, first := s.trials.begin(c.dst)
	if first {
		t.result, t.err = s.runTrial(ctx, c, m)
		s.trials.conclude(c.dst, t)
		s.Telemetry.Tried(t.result)
		if t.result == telemetry.TrialMesh {
			return nil
		}
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		return reason.New(reason.UncertainDestination, fmt.Errorf("mutual TLS is being tried at %s: %w", c.dst, context.Cause(ctx)))
	}
	switch {
	case t.result == telemetry.TrialMesh:
		return s.connectTLS(ctx, c, m, queueTimeout)
	case !t.result.Foreign():
		return t.err
	}
	if c.log.Trial = string(t.result); first {
		c.log.PassedOn(t.err)
	}
	return s.passOn(ctx, c, m)
}

// runTrial makes the trial. It is TrialMesh where c has its server, else the error says what the server did.
func (s *outbound) runTrial(ctx context.Context, c *conn, m meshDestination) (telemetry.Trial, error) {
	for closes := 1; ; closes++ {
		err := s.connectTLS(ctx, c, m, trialTimeout)
		if err == nil {
			return telemetry.TrialMesh, nil
		}
		result := resultOf(err)
		switch {
		case result != telemetry.TrialClosed:
			return result, explained(result, err)
		case s.trials.wasMesh(c.dst.Addr()): // as another of its ports has shown
			return telemetry.TrialFailed, err
		case closes == closesOfForeign:
			return telemetry.TrialClosed, err
		}
		select {
		case <-time.After(closePause):
		case <-ctx.Done():
			return telemetry.TrialFailed, err
		}
	}
}

// explained gives an error that says nothing about the certificate of the server the way out.
func explained(result telemetry.Trial, err error) error {
	e := reason.Of(err)
	if result != telemetry.TrialFailed || e.Reason != reason.HandshakeFailed || ofMesh(err) {
		return err
	}
	return &reason.Error{Reason: e.Reason, Cause: reason.Inconclusive,
		Err: fmt.Errorf("mutual TLS was tried first, and the server neither was of the mesh nor proved that it is not: %w", err)}
}

// passOn connects as plaintext. It is a new connection: the server has seen our hello on the other.
func (s *outbound) passOn(ctx context.Context, c *conn, m meshDestination) error {
	server, err := s.dial(ctx, listen.Dialer(ConnectTimeout), c.dst)
	if err != nil {
		return err
	}
	if !s.plaintext(ctx, c, s.Limits.holders.count(theApp)) {
		listen.Reset(server)
		return errNoRoom
	}
	s.Telemetry.PassedOn()
	c.server, c.security, c.verify = relay.Plain(server), telemetry.Passthrough, s.verifyPassedOn(m)
	c.ended = func(r relay.Result) { s.unanswered(c, r) }
	return nil
}

// verifyPassedOn is verifyPlaintext for a connection whose server has proved not to be of the mesh.
func (s *outbound) verifyPassedOn(m meshDestination) registry.Verify {
	plaintext := s.verifyPlaintext(m.addr, m.lookup)
	return func(now *identity.Snapshot) error {
		d := s.resolver.MapOf(now.Mesh).Decide(m.addr, m.lookup)
		if d.Kind == destination.TryMesh && now.Mesh.Outbound.Unknown == meshmap.Passthrough {
			return nil
		}
		return plaintext(now)
	}
}

// errForeign is a server that speaks TLS and is of no mesh.
var errForeign = errors.New("the server's certificate has no SPIFFE ID")

// noticeForeign ends the handshake with errForeign where the server's certificate is one that no workload of a mesh
// has, ours or another: it has no SPIFFE ID at all. One that has a SPIFFE ID and is not accepted proves nothing.
func noticeForeign(config *tls.Config) {
	verify := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		for _, uri := range state.PeerCertificates[0].URIs {
			if strings.EqualFold(uri.Scheme, "spiffe") {
				return verify(state)
			}
		}
		return errForeign
	}
}

// lateError is what went wrong after the server had shown a certificate of the mesh that is accepted, or had asked us
// for ours.
type lateError struct{ err error }

func (e *lateError) Error() string { return e.err.Error() }
func (e *lateError) Unwrap() error { return e.err }

// foreignAlerts are those by which a server refuses our hello. A proxy of the mesh takes it, and says what it has
// against us only behind its own part of the handshake, which ends the trial.
var foreignAlerts = []tls.AlertError{
	40,  // handshake_failure
	47,  // illegal_parameter
	50,  // decode_error
	70,  // protocol_version
	71,  // insufficient_security
	112, // unrecognized_name
	120, // no_application_protocol
}

// Records of TLS have a type within these bounds (RFC 8446, appendix B.1).
const firstRecordType, lastRecordType = 20, 24

// resultOf is what the error of a handshake proves.
func resultOf(err error) telemetry.Trial {
	var late *lateError
	var header tls.RecordHeaderError
	var op *net.OpError
	switch e := reason.Of(err); {
	case e.Reason != reason.HandshakeFailed, errors.As(err, &late):
		return telemetry.TrialFailed
	case errors.Is(err, errForeign):
		return telemetry.TrialForeignCertificate
	case errors.As(err, &header):
		if kind := header.RecordHeader[0]; kind < firstRecordType || kind > lastRecordType {
			return telemetry.TrialNotTLS
		}
	case isAlert(err) && errors.As(err, &op):
		if slices.ContainsFunc(foreignAlerts, func(a tls.AlertError) bool { return a.Error() == op.Err.Error() }) {
			return telemetry.TrialAlert
		}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return telemetry.TrialClosed
	}
	return telemetry.TrialFailed
}

// ofMesh tells whether a failed handshake shows a server of a mesh: its certificate is one, and is not accepted.
func ofMesh(err error) bool {
	var refusal *svid.Error
	return errors.As(err, &refusal) || reason.Of(err).Cause == reason.WrongIdentity || reason.Of(err).Cause == reason.NotMutual
}
