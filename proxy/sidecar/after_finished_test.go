package sidecar

import (
	"crypto/tls"
	"net"
	"testing"
	"time"
)

// TestGarbageBehindFinished is the control of what is not broken: what comes in one segment with the client's Finished,
// and is no record under the new keys, ends the connection.
func TestGarbageBehindFinished(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	leaf := m.clientFiles.Leaf
	for name, garbage := range map[string][]byte{
		"CCS": {20, 3, 3, 0, 1, 1}, "plaintext alert": {21, 3, 3, 0, 2, 1, 0}, "http": []byte("GET / HTTP/1.1\r\n\r\n"), "oversize": {23, 3, 3, 0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			raw := dial(t, m.server.inboundAddr().String())
			c := tls.Client(coalesced{raw, garbage}, m.tlsClient(leaf))
			_ = c.Handshake()
			_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
			_, err := c.Read(make([]byte, 1))
			if err == nil {
				t.Fatal("answered")
			}
			if n, ok := err.(net.Error); ok && n.Timeout() {
				t.Fatal("not ended")
			}
			eventually(t, "the place is free", func() bool { return m.server.inbound.Active() == 0 })
		})
	}
	if err := exchange(m.client.outboundAddr(), "still"); err != nil {
		t.Error(err)
	}
	m.client.stop()
	m.server.stop()
}

// coalesced sends garbage in one segment with the last flight.
type coalesced struct {
	net.Conn
	garbage []byte
}

func (c coalesced) Write(p []byte) (int, error) {
	if p[0] == 20 || p[0] == 23 && len(p) > 300 {
		_, err := c.Conn.Write(append(append([]byte{}, p...), c.garbage...))
		return len(p), err
	}
	return c.Conn.Write(p)
}
