package sidecar

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// resumingServer is a server of the same CA and identity that hands out session tickets, as one with a stolen key
// would, or an older release. It returns its address; a client that has been there once holds a ticket.
func resumingServer(t *testing.T, leaf tls.Certificate) string {
	t.Helper()
	config := serverWith(leaf)
	l := mustListen(t, serverIP)
	serveEach(t, l, func(c net.Conn) {
		conn := tls.Server(c, config)
		_, _ = io.Copy(conn, conn)
	})
	return l.Addr().String()
}

// offered wants to see the resumption that a client offers: whether its hello has a pre_shared_key (RFC 8446, section
// 4.2.11).
type offered struct {
	net.Conn
	hello []byte
}

func (o *offered) Write(p []byte) (int, error) {
	if o.hello == nil {
		o.hello = bytes.Clone(p)
	}
	return o.Conn.Write(p)
}

// hasExtension tells whether a hello, one record, has an extension.
func hasExtension(hello []byte, kind uint16) bool {
	message := hello[5:]
	at := 4 + 2 + 32
	at += 1 + int(message[at])
	at += 2 + int(binary.BigEndian.Uint16(message[at:]))
	at += 1 + int(message[at])
	for rest := message[at+2:]; len(rest) >= 4; rest = rest[4+int(binary.BigEndian.Uint16(rest[2:])):] {
		if binary.BigEndian.Uint16(rest) == kind {
			return true
		}
	}
	return false
}

const preSharedKey, earlyData = 41, 42 // extensions

// TestOldTicket: a ticket of another server of the mesh opens nothing. The handshake is whole, with certificates on
// both sides verified anew: a client that was revoked since, or shows none, is refused although its ticket was made
// while it was good.
func TestOldTicket(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	elsewhere := resumingServer(t, m.serverFiles.Leaf)
	leaf := m.ca.Issue(t, proxytest.ID("client"))
	config := m.tlsClient(leaf)
	config.ServerName, config.ClientSessionCache = "server", tls.NewLRUClientSessionCache(4)
	visit := func(addr string, config *tls.Config) (resumed, psk bool, err error) {
		o := &offered{Conn: dial(t, addr)}
		conn := tls.Client(o, config)
		defer conn.Close()
		err = roundTrip(conn, "hello")
		return conn.ConnectionState().DidResume, hasExtension(o.hello, preSharedKey), err
	}
	ticket := func() {
		t.Helper()
		if _, _, err := visit(elsewhere, config); err != nil {
			t.Fatal(err)
		}
	}
	ticket()
	if resumed, psk, err := visit(elsewhere, config); err != nil || !resumed || !psk {
		t.Fatalf("the control, the server that made the ticket: resumed %t, offered %t, %v", resumed, psk, err)
	}
	ticket()
	addr := m.server.inboundAddr().String()
	if resumed, psk, err := visit(addr, config); err != nil || resumed || !psk {
		t.Errorf("a ticket of another server: resumed %t, offered %t, %v; want a whole handshake", resumed, psk, err)
	}
	ticket()
	bare := config.Clone()
	bare.Certificates = nil
	if _, psk, err := visit(addr, bare); err == nil || !psk {
		t.Errorf("a ticket instead of a certificate: offered %t, %v; want a refusal", psk, err)
	}
	m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound",reason="no_certificate"} 1`)
	ticket()
	m.serverFiles.Mesh.RevokedKeys = []string{svid.KeyDigest(leaf.Leaf)}
	m.server.publish(t, m.serverFiles.Sealed(t))
	if _, psk, err := visit(addr, config); err == nil || !psk {
		t.Errorf("a ticket from before the revocation: offered %t, %v; want a refusal", psk, err)
	}
	m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound",reason="revoked"} 1`)
}

// TestClientNeverResumes: our client offers no ticket to a server that gave it one.
func TestClientNeverResumes(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	elsewhere := resumingServer(t, m.serverFiles.Leaf)
	var mu sync.Mutex
	hellos := 0
	front := mustListen(t, serverIP)
	t.Cleanup(func() { front.Close() })
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := front.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				header := make([]byte, 5)
				if _, err := io.ReadFull(c, header); err != nil {
					return
				}
				hello := append(header, make([]byte, binary.BigEndian.Uint16(header[3:]))...)
				if _, err := io.ReadFull(c, hello[5:]); err != nil {
					return
				}
				mu.Lock()
				hellos++
				if hasExtension(hello, preSharedKey) || hasExtension(hello, earlyData) {
					t.Errorf("hello %d offers to resume", hellos)
				}
				mu.Unlock()
				back, err := net.Dial("tcp", elsewhere)
				if err != nil {
					return
				}
				defer back.Close()
				_, _ = back.Write(hello)
				wg.Go(func() { _, _ = io.Copy(back, c); back.(*net.TCPConn).CloseWrite() })
				_, _ = io.Copy(c, back)
			})
		}
	})
	m.client.dials(netip.MustParseAddrPort(front.Addr().String()))
	for range 4 {
		m.client.mustExchange(t, "hello")
	}
	front.Close()
	wg.Wait()
	if hellos != 4 {
		t.Errorf("%d hellos seen, want 4: this shows nothing", hellos)
	}
}

// TestForgedTicket: identities and binders that nobody has made, and early data, are no way in. Whatever the server
// makes of such a hello, it is not a handshake that a client without a certificate can end.
func TestForgedTicket(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	hello := clientHello(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{api.ALPN}})
	identity := bytes.Repeat([]byte{7}, 200)
	psk := binary.BigEndian.AppendUint16(nil, uint16(2+len(identity)+4))
	psk = append(binary.BigEndian.AppendUint16(psk, uint16(len(identity))), identity...)
	psk = append(psk, 0, 0, 0, 9)                       // age
	psk = append(psk, 0, 33, 32)                        // one binder of 32 bytes
	psk = append(psk, bytes.Repeat([]byte{8}, 32)...)   // which is wrong
	request := "GET / HTTP/1.1\r\nHost: server\r\n\r\n" // as early data, in plaintext: no key is known
	for name, message := range map[string][]byte{
		"pre-shared key":                appendExtension(hello, preSharedKey, psk),
		"pre-shared key and early data": appendExtension(asRecord(appendExtension(hello, earlyData, nil)), preSharedKey, psk),
		"pre-shared key first":          withExtension(hello, preSharedKey, psk),
		"pre-shared key twice":          appendExtension(asRecord(appendExtension(hello, preSharedKey, psk)), preSharedKey, psk),
		"early data alone":              appendExtension(hello, earlyData, nil),
		"no binder":                     appendExtension(hello, preSharedKey, psk[:len(psk)-33]),
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, m.server.inboundAddr().String())
			_, _ = c.Write(inHandshakeRecords(message, 16000))
			_, _ = c.Write(append([]byte{23, 3, 3, 0, byte(len(request))}, request...))
			got, err := io.ReadAll(c)
			if bytes.Contains(got, []byte("GET /")) {
				t.Errorf("the app has answered: %q", got)
			}
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				t.Error("the connection was kept")
			}
		})
	}
	m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound"`)
	if m.server.counted(t, `meshless_connections_opened_total{direction="inbound"`) {
		t.Error("a connection was opened")
	}
	m.control(t)
}

// appendExtension adds an extension behind those of a hello.
func appendExtension(hello []byte, kind uint16, data []byte) []byte {
	message := withExtension(hello, kind, data) // its length is right; now move it to the end
	at := 4 + 2 + 32
	at += 1 + int(message[at])
	at += 2 + int(binary.BigEndian.Uint16(message[at:]))
	at += 1 + int(message[at]) + 2
	n := 4 + len(data)
	moved := append(bytes.Clone(message[:at]), message[at+n:]...)
	return append(moved, message[at:at+n]...)
}

// asRecord is a handshake message in one record.
func asRecord(message []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{22, 3, 1}, uint16(len(message))), message...)
}
