package relay

import (
	"crypto/fips140"
	"crypto/tls"
	"crypto/x509"
	"net"
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

// Secure does a TLS 1.3 handshake over c, until deadline, with a configuration that serves this one handshake. Prefix
// is what was read from c before. It returns the side that results and the certificates of the peer, which the
// configuration has verified. After an error the caller closes the connection.
func Secure(c *net.TCPConn, prefix []byte, role Role, config *tls.Config, deadline time.Time) (*Side, []*x509.Certificate, error) {
	// With FIPS, AES-GCM is approved only as crypto/tls itself drives it.
	secrets, ours := new(record.Secrets), engineWorks && !fips140.Enabled()
	if ours {
		config.KeyLogWriter = secrets
	}
	raw := &rawConn{TCPConn: c, ahead: prefix, left: maxHandshake}
	conn := tls.Server(raw, config)
	if role == Client {
		conn = tls.Client(raw, config)
	}
	_ = c.SetDeadline(deadline)
	if err := conn.Handshake(); err != nil {
		return nil, nil, err
	}
	_ = c.SetDeadline(time.Time{})
	state := conn.ConnectionState()
	side := &Side{tcp: c, raw: raw}
	if !ours {
		raw.done, side.stream = true, conn
		return side, state.PeerCertificates, nil
	}
	var err error
	side.records, err = record.New(state, role == Client, secrets)
	return side, state.PeerCertificates, err
}
