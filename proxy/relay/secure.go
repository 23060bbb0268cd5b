package relay

import (
	"crypto/fips140"
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/meshless-dev/meshless/proxy/record"
)

// Role is which side of TLS we are.
type Role bool

// The two roles.
const (
	Client Role = true
	Server Role = false
)

// Secure does a TLS 1.3 handshake over raw, until deadline, with a configuration that serves this one handshake. It
// returns the side that comes of it and the certificates of the peer, which the configuration has judged. After an
// error the caller closes the connection.
func Secure(raw *Raw, role Role, config *tls.Config, deadline time.Time) (*Side, []*x509.Certificate, error) {
	// With FIPS, AES-GCM is approved only as crypto/tls itself drives it.
	secrets, ours := new(record.Secrets), engineWorks && !fips140.Enabled()
	if ours {
		config.KeyLogWriter = secrets
	}
	conn := tls.Server(raw, config)
	if role == Client {
		conn = tls.Client(raw, config)
	}
	_ = raw.SetDeadline(deadline)
	if err := conn.Handshake(); err != nil {
		return nil, nil, err
	}
	_ = raw.SetDeadline(time.Time{})
	state := conn.ConnectionState()
	side := &Side{tcp: raw.TCPConn, raw: raw}
	if !ours {
		raw.open, side.tls = true, conn
		return side, state.PeerCertificates, nil
	}
	var err error
	side.records, err = record.New(state, role == Client, secrets)
	return side, state.PeerCertificates, err
}
