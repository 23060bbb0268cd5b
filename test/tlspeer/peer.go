// Package tlspeer is a peer of TLS 1.3 that says, behind an ordinary handshake, whatever a test wants to be said:
// padding, fragments, empty records, new keys at any place, messages in pieces, alerts, and what is no TLS at all. A
// Sequence is a random one of these, with a model of what must come of it.
package tlspeer

import (
	"crypto/tls"
	"encoding/binary"
	"net"
)

// Peer is one end of a connection whose handshake is done.
type Peer struct{ In, Out *Keys }

// Connect does a handshake over c. The server's configuration must have tickets disabled. Not a byte behind the
// handshake is read.
func Connect(c net.Conn, config *tls.Config, isClient bool) (*Peer, error) {
	secrets, config := new(Secrets), config.Clone()
	config.KeyLogWriter = secrets
	bounded := &recordwise{Conn: c}
	conn := tls.Server(bounded, config)
	if isClient {
		conn = tls.Client(bounded, config)
	}
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	return New(conn.ConnectionState().CipherSuite, secrets, isClient)
}

// New is a peer that has these secrets.
func New(suite uint16, s *Secrets, isClient bool) (*Peer, error) {
	in, out := s.Client, s.Server
	if isClient {
		in, out = out, in
	}
	p := new(Peer)
	var err error
	if p.In, err = NewKeys(suite, in); err != nil {
		return nil, err
	}
	p.Out, err = NewKeys(suite, out)
	return p, err
}

// recordwise reads no byte behind the record that is asked for.
type recordwise struct {
	net.Conn
	head []byte
	left int
}

func (r *recordwise) Read(p []byte) (int, error) {
	if r.left > 0 {
		n, err := r.Conn.Read(p[:min(len(p), r.left)])
		r.left -= n
		return n, err
	}
	n, err := r.Conn.Read(p[:min(len(p), 5-len(r.head))])
	if r.head = append(r.head, p[:n]...); len(r.head) == 5 {
		r.left, r.head = int(binary.BigEndian.Uint16(r.head[3:])), nil
	}
	return n, err
}
