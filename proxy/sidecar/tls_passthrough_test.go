package sidecar

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// startTLSApp starts a mesh whose server's app terminates TLS of its own, as a webhook does, on a port that lets it
// through.
func startTLSApp(t *testing.T) *mesh {
	t.Helper()
	own := testca.New(t, proxytest.TrustDomain).Issue(t, proxytest.ID("the-app-itself"))
	m := startMesh(t, func(c *net.TCPConn) {
		conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{"h2"}})
		_, _ = io.Copy(conn, conn)
	})
	m.serverFiles.Workload.TLSPassthroughPorts = netset.PortsOf(m.app.Port())
	m.server.publish(t, m.serverFiles.Sealed(t))
	return m
}

// appTLS is how the API server calls a webhook: TLS of its own, without a certificate of the mesh.
func appTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
}

func wantApp(t *testing.T, conn *tls.Conn) {
	t.Helper()
	if err := roundTrip(conn, "review"); err != nil {
		t.Fatal(err)
	}
	if got := conn.ConnectionState().PeerCertificates[0].URIs[0].String(); got != proxytest.ID("the-app-itself") {
		t.Errorf("TLS ended at %s, want the app", got)
	}
}

// TestTLSPassthrough: a stranger's TLS reaches the app untouched, however the hello is cut and whatever the version;
// a member's reaches it inside of mutual TLS.
func TestTLSPassthrough(t *testing.T) {
	noLeaks(t)
	m := startTLSApp(t)
	server := m.server.inboundAddr().String()
	wantApp(t, tls.Client(dial(t, server), appTLS()))
	old := appTLS()
	old.MaxVersion = tls.VersionTLS12
	wantApp(t, tls.Client(dial(t, server), old))
	wantApp(t, tls.Client(dribble{dial(t, server)}, appTLS()))
	wantApp(t, tls.Client(&tinyRecords{TCPConn: dial(t, server)}, appTLS()))
	m.server.wantMetric(t, `meshless_connections_opened_total{direction="inbound",security="tls_passthrough"} 4`)
	wantApp(t, tls.Client(dial(t, m.client.outboundAddr()), appTLS()))
	m.server.wantMetric(t, `meshless_connections_opened_total{direction="inbound",security="mutual_tls"} 1`)
}

// TestTLSPassthroughRefuses: whatever is no whole hello is refused, and not one byte of it reaches the app.
func TestTLSPassthroughRefuses(t *testing.T) {
	noLeaks(t)
	reached := make(chan struct{}, 16)
	m := startMesh(t, func(*net.TCPConn) { reached <- struct{}{} })
	m.serverFiles.Workload.TLSPassthroughPorts = netset.PortsOf(m.app.Port())
	m.server.publish(t, m.serverFiles.Sealed(t))
	server := m.server.inboundAddr().String()
	for _, text := range []string{"", "x", "GET / HTTP/1.1\r\n\r\n", "\x16", "\x16\x03\x01 not a hello after all", "\x16\x00\x00\x00\x00\x00", "\x80\x2e\x01\x00\x02"} {
		c := dial(t, server)
		_, _ = io.WriteString(c, text)
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("plaintext %q: got %q, %v", text, got, err)
		}
	}
	m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound",reason="not_tls"} 6`)
	m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound",reason="peer_closed"} 1`)
	ours := m.tlsClient(m.ca.Issue(t, proxytest.ID("client")))
	ours.Certificates = nil
	if err := roundTrip(tls.Client(dial(t, server), ours), "hello"); err == nil {
		t.Error("our ALPN without a certificate was accepted")
	}
	m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound",reason="no_certificate"} 1`)
	stranger := m.tlsClient(testca.New(t, proxytest.TrustDomain).Issue(t, proxytest.ID("client")))
	if err := roundTrip(tls.Client(dial(t, server), stranger), "hello"); err == nil {
		t.Error("our ALPN with a certificate of another authority was accepted")
	}
	select {
	case <-reached:
		t.Error("the app was dialed")
	default:
	}
}

// TestTLSPassthroughHalfHello: half a hello is kept no longer than a handshake may take.
func TestTLSPassthroughHalfHello(t *testing.T) {
	slow(t)
	noLeaks(t)
	m := startTLSApp(t)
	hello := clientHello(t, appTLS())
	for _, part := range [][]byte{nil, hello[:1], hello[:5], hello[:len(hello)-1]} {
		c := dial(t, m.server.inboundAddr().String())
		_, _ = c.Write(part)
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if got, err := io.ReadAll(c); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes of a hello: got %q, %v", len(part), got, err)
		}
	}
	m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound",reason="timeout"} 4`)
}

// TestTLSPassthroughEnds: strangers' connections end when their port becomes Strict, and members' do not.
func TestTLSPassthroughEnds(t *testing.T) {
	noLeaks(t)
	m := startTLSApp(t)
	stranger := tls.Client(dial(t, m.server.inboundAddr().String()), appTLS())
	wantApp(t, stranger)
	member := tls.Client(dial(t, m.client.outboundAddr()), appTLS())
	wantApp(t, member)
	m.serverFiles.Workload.StrictPorts = m.serverFiles.Workload.TLSPassthroughPorts
	m.server.publish(t, m.serverFiles.Sealed(t))
	if _, err := stranger.Read(make([]byte, 1)); err == nil {
		t.Error("a stranger lives on a Strict port")
	}
	wantApp(t, member)
}

// TestStrictPortInPermissiveNamespace: a port that is Strict by name stays so, whatever the mesh map says.
func TestStrictPortInPermissiveNamespace(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo, permissive)
	m.serverFiles.Workload.StrictPorts = netset.PortsOf(m.app.Port())
	m.server.publish(t, m.serverFiles.Sealed(t))
	if err := roundTrip(dial(t, m.server.inboundAddr().String()), "plain"); err == nil {
		t.Error("plaintext was accepted on a Strict port")
	}
	if err := exchange(m.client.outboundAddr(), "mesh"); err != nil {
		t.Error(err)
	}
}
