package sidecar

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
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

// greeting is what an app says first.
const greeting = "220 ready\r\n"

// greeter is an app that speaks first, and then sends back what it gets.
func greeter(c *net.TCPConn) {
	_, _ = io.WriteString(c, greeting)
	echo(c)
}

func readGreeting(c io.Reader) error {
	got := make([]byte, len(greeting))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != greeting {
		return fmt.Errorf("got %q", got)
	}
	return nil
}

// greeted tells whether the app's greeting comes within d.
func greeted(t *testing.T, c net.Conn, d time.Duration) bool {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(d))
	err := readGreeting(c)
	_ = c.SetReadDeadline(time.Now().Add(15 * time.Second))
	return err == nil
}

// TestPermissiveServerFirst: a client in plaintext has the greeting before a probe of a second would give it up, from
// its first connection on, and what it says then arrives.
func TestPermissiveServerFirst(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, greeter, permissive)
	for n := range 3 {
		c := dial(t, m.server.inboundAddr().String())
		if !greeted(t, c, time.Second) {
			t.Fatalf("connection %d waits for its greeting", n)
		}
		for _, text := range []string{"\x16\x01\x00\x01\x85\xa2\x01", "EHLO x\r\n"} {
			if err := roundTrip(c, text); err != nil {
				t.Errorf("connection %d: %q: %v", n, text, err)
			}
		}
		_ = c.CloseWrite()
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("connection %d ends with %q, %v", n, rest, err)
		}
	}
	m.server.wantMetric(t, `meshless_sent_bytes_total{direction="inbound",security="plaintext"} 78`) // greetings too
}

// TestPermissiveLateHello: a hello that comes after the greeting does not reach the app, and the next of the same
// client has all the time.
func TestPermissiveLateHello(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, greeter, permissive)
	config := m.tlsClient(m.ca.Issue(t, proxytest.ID("client")))
	server := m.server.inboundAddr().String()
	late := dial(t, server)
	if !greeted(t, late, 2*time.Second) {
		t.Fatal("no greeting")
	}
	if err := tls.Client(late, config).Handshake(); err == nil {
		t.Error("a handshake behind a greeting")
	}
	m.server.wantMetric(t, `meshless_connections_closed_total{direction="inbound",reason="detection_failed",security="plaintext"} 1`)
	next := dial(t, server)
	if greeted(t, next, time.Second) {
		t.Fatal("the second hello is overtaken, too")
	}
	conn := tls.Client(next, config)
	if err := readGreeting(conn); err != nil {
		t.Error(err)
	}
	if err := roundTrip(conn, "hello"); err != nil {
		t.Error(err)
	}
	// The app agrees on TLS of its own behind a greeting (STARTTLS): that hello is its business.
	config.NextProtos = []string{"smtp"}
	own := dial(t, server)
	if !greeted(t, own, 5*time.Second) {
		t.Fatal("no greeting")
	}
	if err := roundTrip(own, string(hello(t, config))); err != nil {
		t.Errorf("the app's own TLS: %v", err)
	}
}

// hello is the first flight of a client.
func hello(t *testing.T, config *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	go func() { _ = tls.Client(far, config).Handshake(); far.Close() }()
	got := make([]byte, 16<<10)
	n, err := near.Read(got)
	if err != nil {
		t.Fatal(err)
	}
	return got[:n]
}

// TestHelloHeldBack is an attack: somebody on the path holds the hellos of a client of the mesh back, so that the
// server's proxy takes it for one in plaintext and lets the app speak. Nothing becomes plaintext by it: the client's
// proxy tries again and has mutual TLS, or nothing.
func TestHelloHeldBack(t *testing.T) {
	slow(t)
	noLeaks(t)
	m := startMesh(t, greeter, permissive)
	var wire logBuffer
	l := mustListen(t, serverIP)
	serveEach(t, l, func(client net.Conn) {
		server, err := net.Dial("tcp", m.server.inboundAddr().String())
		if err != nil {
			return
		}
		defer server.Close()
		first := make([]byte, 1)
		_ = server.SetReadDeadline(time.Now().Add(time.Second)) // until the greeting has overtaken the hello, or so long
		n, _ := server.Read(first)
		_ = server.SetReadDeadline(time.Time{})
		_, _ = client.Write(first[:n])
		go func() {
			_, _ = io.Copy(client, server)
			client.Close()
		}()
		_, _ = io.Copy(io.MultiWriter(server, &wire), client)
	})
	m.client.dials(netip.MustParseAddrPort(l.Addr().String()))
	const secret = "the secret of the app"
	c := dial(t, m.client.outboundAddr())
	if err := readGreeting(c); err != nil {
		t.Fatalf("the second try has no mutual TLS: %v", err)
	}
	if err := roundTrip(c, secret); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(wire.String(), secret) {
		t.Error("the secret passed in the clear")
	}
	m.client.wantMetric(t, `meshless_connections_opened_total{direction="outbound",security="mutual_tls"} 1`)
	m.server.wantMetric(t, `meshless_connections_closed_total{direction="inbound",reason="detection_failed",security="plaintext"} 1`)
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
