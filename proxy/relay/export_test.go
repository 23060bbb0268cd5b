package relay

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"time"
)

// Secure is Own.Secure.
func Secure(c *net.TCPConn, prefix []byte, role Role, config *tls.Config, deadline time.Time, gate Gate) (*Side, []*x509.Certificate, error) {
	return Own.Secure(c, prefix, role, config, deadline, gate)
}

// Secure does a handshake, for a connection that is relayed. It returns the certificates of the peer beside.
func (r Records) Secure(c *net.TCPConn, prefix []byte, role Role, config *tls.Config, deadline time.Time, gate Gate) (*Side, []*x509.Certificate, error) {
	h, err := r.Shake(c, prefix, role, config, deadline, gate)
	if err != nil {
		return nil, nil, err
	}
	side, err := h.Side()
	return side, h.State.PeerCertificates, err
}
