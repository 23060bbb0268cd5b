package attack

import (
	"bytes"
	"crypto/tls"
	"net"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/tlspeer"
)

// hostile is a client with a good certificate that writes any record it likes. It reads by crypto/tls.
type hostile struct {
	*net.TCPConn
	tls *tls.Conn
	out *tlspeer.Keys
}

// handshaken does the handshake of a member over c.
func handshaken(c *net.TCPConn, leaf tls.Certificate) (*hostile, error) {
	secrets := new(tlspeer.Secrets)
	h := &hostile{TCPConn: c}
	h.tls = tls.Client(c, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{leaf}, NextProtos: []string{api.ALPN}, KeyLogWriter: secrets})
	if err := h.tls.Handshake(); err != nil {
		return nil, err
	}
	var err error
	h.out, err = tlspeer.NewKeys(h.tls.ConnectionState().CipherSuite, secrets.Client)
	return h, err
}

// record is one record, with so many zeros behind it.
func (h *hostile) record(kind byte, content []byte, padding int) []byte {
	return h.out.Record(nil, kind, content, padding)
}

// send writes records as they are.
func (h *hostile) send(parts ...[]byte) error {
	_, err := h.TCPConn.Write(bytes.Join(parts, nil))
	return err
}
