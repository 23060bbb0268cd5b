package sidecar

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// junkCertificate is a certificate of n URI names: of nobody, and for nobody. Behind a leaf it counts for nothing, but
// is parsed.
func junkCertificate(t testing.TB, n int) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	for range n {
		template.URIs = append(template.URIs, &url.URL{Scheme: "a"})
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestStrangerFillsTheMemo: who has no key at all shows the server its own leaf (which any TLS server shows to
// anybody), and a certificate of junk behind it, another one every time. The proof of the key fails each time. Nothing
// of it may stay in memory.
func TestStrangerFillsTheMemo(t *testing.T) {
	m := startMesh(t, echo)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	addr := m.server.inboundAddr().String()
	// The leaf of the server, as it is shown to a stranger.
	var public []byte
	probe := tls.Client(dial(t, addr), &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		public = s.PeerCertificates[0].Raw
		return nil
	}})
	_ = probe.Handshake()
	_ = probe.Close()
	junk := junkCertificate(t, 6500)
	t.Logf("a chain of %d bytes", len(public)+len(junk))
	before := liveHeap()
	const strangers = 150
	began := time.Now()
	for i := range strangers {
		another := bytes.Clone(junk)
		binary.BigEndian.PutUint32(another[len(another)-4:], uint32(i))
		raw := dial(t, addr)
		c := tls.Client(raw, m.tlsClient(tls.Certificate{Certificate: [][]byte{public, another}, PrivateKey: stranger}))
		_ = c.Handshake()
		_, err := c.Read(make([]byte, 1))
		if err == nil {
			t.Fatal("let in")
		}
		if i == 0 {
			t.Log("the server says:", err)
		}
		_ = raw.Close()
	}
	took := time.Since(began)
	eventually(t, "the connections have ended", func() bool { return m.server.inbound.Active() == 0 })
	after := liveHeap()
	each := (int64(after) - int64(before)) / strangers
	t.Logf("%d handshakes without a key took %s and left %d bytes each: 4096 of them leave %d MiB", strangers, took, each, each*4096>>20)
	if each > 16<<10 {
		t.Errorf("a stranger leaves %d bytes in the memory of the proxy at every failed handshake", each)
	}
}
