package relay

import (
	"crypto/fips140"
	"crypto/tls"
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

// Handshake is one that is done. What follows it is either a Side or a Stream.
type Handshake struct {
	State tls.ConnectionState

	conn    *tls.Conn
	raw     *rawConn
	role    Role
	secrets *record.Secrets // nil if records stay with crypto/tls
}

// Records says whose record layer protects a connection behind its handshake. The zero value is Own.
type Records string

// The record layers.
const (
	Own      Records = "Own"      // package record, moved by the Engine
	Standard Records = "Standard" // crypto/tls, moved by two goroutines a connection
)

// InForce is the record layer that serves connections where r was asked for. With FIPS 140-3, AES-GCM is approved only
// as crypto/tls itself drives it, and our own layer needs the engine.
func (r Records) InForce() Records {
	if r == Standard || !engineWorks || fips140.Enabled() {
		return Standard
	}
	return Own
}

// Shake does a TLS 1.3 handshake over c, with a configuration that serves this one handshake. Prefix is what was read
// from c before. The configuration verifies the peer. After an error the caller closes the connection. It computes
// within the gate. The deadline is the peer's: the time in which it waits for us is added to it.
func (r Records) Shake(c *net.TCPConn, prefix []byte, role Role, config *tls.Config, deadline time.Time, gate Gate) (*Handshake, error) {
	var secrets *record.Secrets
	if r.InForce() == Own {
		secrets = new(record.Secrets)
		config.KeyLogWriter = secrets
	}
	raw := &rawConn{TCPConn: c, ahead: prefix, left: allowanceFor(role)}
	conn := tls.Server(raw, config)
	if role == Client {
		conn = tls.Client(raw, config)
	}
	raw.enter(gate, time.Until(deadline))
	err := conn.Handshake()
	raw.leave()
	if err != nil {
		return nil, err
	}
	return &Handshake{conn.ConnectionState(), conn, raw, role, secrets}, nil
}

// Side is for a connection that is relayed. It has no deadline any more.
func (h *Handshake) Side() (*Side, error) {
	_ = h.raw.SetDeadline(time.Time{})
	side := &Side{tcp: h.raw.TCPConn, raw: h.raw}
	if h.secrets == nil {
		h.raw.done, side.stream = true, h.conn
		return side, nil
	}
	var err error
	side.records, err = record.New(h.State, h.role == Client, h.secrets)
	return side, err
}

// Stream is for a connection that is not relayed. Its deadline is that of the handshake.
func (h *Handshake) Stream() *tls.Conn {
	h.raw.done = true
	return h.conn
}
