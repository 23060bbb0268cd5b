package sidecar

import (
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

func permissive(m *meshmap.Map) { m.Inbound.Mode = meshmap.Permissive }

// dribble writes one byte per segment.
type dribble struct{ *net.TCPConn }

func (d dribble) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.TCPConn.Write(p[i : i+1]); err != nil {
			return i, err
		}
		if i%64 == 0 {
			time.Sleep(time.Millisecond) // lets what was written travel alone
		}
	}
	return len(p), nil
}

func TestPermissive(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo, permissive)
	server := m.server.inboundAddr().String()
	if err := exchange(m.client.outboundAddr(), "mesh"); err != nil {
		t.Errorf("mesh client: %v", err)
	}
	for _, text := range []string{"x", "GET / HTTP/1.1\r\n\r\n", "\x16", "\x16\x03\x01 not a hello after all", "\x16\x00\x00\x00\x00\x00"} {
		c := dial(t, server)
		_, _ = io.WriteString(c, text)
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != text {
			t.Errorf("plaintext %q came back as %q, %v", text, got, err)
		}
	}
	config := m.tlsClient(m.ca.Issue(t, proxytest.ID("client")))
	config.MinVersion = tls.VersionTLS13
	conn := tls.Client(dribble{dial(t, server)}, config)
	if err := roundTrip(conn, "slow hello"); err != nil {
		t.Errorf("hello in 1-byte pieces: %v", err)
	}
	config.Certificates = nil
	if err := roundTrip(tls.Client(dial(t, server), config), "hello"); err == nil {
		t.Error("our ALPN without a certificate was accepted")
	}
	m.server.wantMetric(t, `meshless_connections_opened_total{direction="inbound",security="plaintext"} 5`)
}

// TestPermissiveForeignTLS: an app that speaks TLS itself gets the hello untouched.
func TestPermissiveForeignTLS(t *testing.T) {
	noLeaks(t)
	own := testca.New(t, proxytest.TrustDomain).Issue(t, proxytest.ID("the-app-itself"))
	m := startMesh(t, func(c *net.TCPConn) {
		conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{"h2"}})
		_, _ = io.Copy(conn, conn)
	}, permissive)
	conn := tls.Client(dial(t, m.server.inboundAddr().String()), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err := roundTrip(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if got := conn.ConnectionState().PeerCertificates[0].URIs[0].String(); got != proxytest.ID("the-app-itself") {
		t.Errorf("TLS ended at %s, want the app", got)
	}
}

func TestPermissiveServerFirst(t *testing.T) {
	slow(t)
	noLeaks(t)
	m := startMesh(t, func(c *net.TCPConn) { _, _ = io.WriteString(c, "220 ready\r\n") }, permissive)
	if got, err := io.ReadAll(dial(t, m.server.inboundAddr().String())); err != nil || string(got) != "220 ready\r\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestPermissiveHalfHello(t *testing.T) {
	slow(t)
	noLeaks(t)
	m := startMesh(t, echo, permissive)
	c := dial(t, m.server.inboundAddr().String())
	_, _ = c.Write([]byte{0x16, 0x03, 0x01, 0x02, 0x00})
	if got, err := io.ReadAll(c); err == nil {
		t.Errorf("half a hello was served: %q", got)
	}
	m.server.wantMetric(t, `meshless_connections_refused_total{direction="inbound",reason="detection_failed"} 1`)
}

// TestPermissiveEnds: plaintext connections end when their port becomes Strict.
func TestPermissiveEnds(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	m.serverFiles.Workload.PermissivePorts = netset.PortsOf(m.app.Port())
	m.server.publish(t, m.serverFiles.Sealed(t))
	c := dial(t, m.server.inboundAddr().String())
	if err := roundTrip(c, "plain"); err != nil {
		t.Fatal(err)
	}
	m.serverFiles.Workload.PermissivePorts = nil
	m.server.publish(t, m.serverFiles.Sealed(t))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("plaintext lives on a Strict port")
	}
}

// TestPermissiveBulk compares what came with what was sent, through the replayed prefix and the spliced rest.
func TestPermissiveBulk(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo, permissive)
	sent := make([]byte, 9<<20)
	_, _ = rand.Read(sent)
	sent[0] = 'x'
	c := dial(t, m.server.inboundAddr().String())
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != string(sent) {
		t.Errorf("got %d bytes of %d, %v", len(got), len(sent), err)
	}
	m.server.wantMetric(t, `meshless_received_bytes_total{direction="inbound",security="plaintext"} 9.437184e+06`)
}
