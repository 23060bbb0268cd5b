package sidecar

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"net"
	"testing"
	"time"
)

// stalled is a connection whose flight with the certificates stops before the proof of their key.
type stalled struct{ net.Conn }

func (s stalled) Write(p []byte) (int, error) {
	if len(p) < 20_000 {
		return s.Conn.Write(p)
	}
	_, err := s.Conn.Write(p[:len(p)-150])
	return len(p), err
}

// TestStrangersInWaiting: what one address can make the server hold at once with handshakes that stop before the proof
// of the key, each with another certificate of junk behind a leaf that everybody knows. It is what the budget takes for
// a handshake.
func TestStrangersInWaiting(t *testing.T) {
	m := startMesh(t, echo)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := m.serverFiles.Leaf.Certificate[0]
	junk := junkCertificate(t, 6500)
	before := liveHeap()
	const strangers = 60
	for i := range strangers {
		another := bytes.Clone(junk)
		binary.BigEndian.PutUint32(another[len(another)-4:], uint32(i))
		c := tls.Client(stalled{dial(t, m.server.inboundAddr().String())}, m.tlsClient(tls.Certificate{Certificate: [][]byte{public, another}, PrivateKey: key}))
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(500 * time.Millisecond)
	waiting := m.server.inbound.Active()
	during := liveHeap()
	each := (int64(during) - int64(before)) / strangers
	t.Logf("%d strangers in waiting hold %d KiB each", waiting, each>>10)
	if each > 200<<10 {
		t.Errorf("a stranger makes the proxy hold %d KiB before it has proved anything", each>>10)
	}
}
