package sidecar

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// What renewals are made of, once more: proxies of two releases must agree.
const (
	renewalLabel = "EXPERIMENTAL meshless renewal"
	renewalSize  = 16

	renewalName   = 0 // halves of what is exported
	renewalAnswer = 1
)

func exported(t *testing.T, c *tls.Conn, half int) []byte {
	t.Helper()
	state := c.ConnectionState()
	secret, err := state.ExportKeyingMaterial(renewalLabel, nil, 2*renewalSize)
	if err != nil {
		t.Fatal(err)
	}
	return secret[half*renewalSize:][:renewalSize]
}

// openAs is a connection past the server's proxy of a client with any leaf, after a round trip.
func (m *mesh) openAs(t *testing.T, leaf tls.Certificate, protocols ...string) *tls.Conn {
	t.Helper()
	config := m.tlsClient(leaf)
	config.NextProtos = protocols
	conn := tls.Client(dial(t, m.server.inboundAddr().String()), config)
	if err := roundTrip(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	return conn
}

// renewAs is a renewal of a client with any leaf, which names connections. It returns the answers.
func (m *mesh) renewAs(t *testing.T, leaf tls.Certificate, names ...[]byte) (answers [][]byte, err error) {
	t.Helper()
	config := m.tlsClient(leaf)
	config.NextProtos = []string{api.RenewALPN}
	conn := tls.Client(dial(t, m.server.inboundAddr().String()), config)
	defer conn.Close()
	message := binary.BigEndian.AppendUint16(nil, uint16(len(names)))
	for _, name := range names {
		message = append(message, name...)
	}
	if _, err := conn.Write(message); err != nil {
		return nil, err
	}
	all, err := io.ReadAll(conn)
	if err != nil {
		return nil, err
	}
	if len(all) != renewalSize*len(names) {
		return nil, io.ErrUnexpectedEOF
	}
	for ; len(all) > 0; all = all[renewalSize:] {
		answers = append(answers, all[:renewalSize])
	}
	return answers, nil
}

// TestRenewalByOthers: nobody prolongs a connection but who holds both it and a newer leaf of its identity.
func TestRenewalByOthers(t *testing.T) {
	noLeaks(t)
	zeros := string(make([]byte, renewalSize))
	attacks := map[string]struct {
		// renew answers whether the server's proxy takes the renewal at all
		renew func(a *aging, t *testing.T, old tls.Certificate, conn *tls.Conn) (answers [][]byte, err error)
		good  bool // the control
	}{
		"the holder, with a newer leaf": {func(a *aging, t *testing.T, _ tls.Certificate, conn *tls.Conn) ([][]byte, error) {
			return a.renewAs(t, a.ca.Issue(t, proxytest.ID("client"), a.clock.lives(2*time.Hour)), exported(t, conn, renewalName))
		}, true},
		"a stolen old key": {func(a *aging, t *testing.T, old tls.Certificate, conn *tls.Conn) ([][]byte, error) {
			return a.renewAs(t, old, exported(t, conn, renewalName))
		}, false},
		"the workload itself, on other connections": {func(a *aging, t *testing.T, _ tls.Certificate, _ *tls.Conn) ([][]byte, error) {
			fresh := a.ca.Issue(t, proxytest.ID("client"), a.clock.lives(2*time.Hour)) // from the same address
			other := a.openAs(t, fresh, api.ALPN)
			return a.renewAs(t, fresh, make([]byte, renewalSize), exported(t, other, renewalName))
		}, false},
		"another member, who knows the name and has no newer leaf": {func(a *aging, t *testing.T, _ tls.Certificate, conn *tls.Conn) ([][]byte, error) {
			return a.renewAs(t, a.ca.Issue(t, proxytest.ID("mallory"), a.clock.lives(time.Minute)), exported(t, conn, renewalName))
		}, false},
		"another member, who knows the name": {func(a *aging, t *testing.T, _ tls.Certificate, conn *tls.Conn) ([][]byte, error) {
			return a.renewAs(t, a.ca.Issue(t, proxytest.ID("mallory"), a.clock.lives(2*time.Hour)), exported(t, conn, renewalName))
		}, false},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			a := startAging(t)
			old := a.ca.Issue(t, proxytest.ID("client"), a.clock.lives(time.Hour))
			conn := a.openAs(t, old, api.ALPN)
			a.until(old.Leaf.NotAfter, 5*time.Minute)
			answers, err := attack.renew(a, t, old, conn)
			if err != nil {
				t.Fatal(err)
			}
			if known := string(answers[0]) == string(exported(t, conn, renewalAnswer)); attack.good && !known {
				t.Error("the server does not know the connection")
			}
			if strings.HasPrefix(name, "another member") && string(answers[0]) != zeros {
				t.Error("the server answers for a connection of another identity")
			}
			a.renewLeaf(t, a.server, &a.serverFiles, "server", 2*time.Hour)
			a.until(old.Leaf.NotAfter, -time.Minute)
			a.server.registry.Reconsider(a.server.identity.Current())
			if attack.good {
				goesOn(t, conn)
				return
			}
			cut(t, conn)
		})
	}
}

// TestForeignClientsEnd: a client of TLS that is no proxy of the mesh cannot renew, as before.
func TestForeignClientsEnd(t *testing.T) {
	noLeaks(t)
	a := startAging(t)
	old := a.ca.Issue(t, proxytest.ID("client"), a.clock.lives(time.Hour))
	conn := a.openAs(t, old)
	a.until(old.Leaf.NotAfter, 5*time.Minute)
	answers, err := a.renewAs(t, a.ca.Issue(t, proxytest.ID("client"), a.clock.lives(2*time.Hour)), exported(t, conn, renewalName))
	if err != nil || string(answers[0]) != string(make([]byte, renewalSize)) {
		t.Errorf("%x, %v: the server knows a connection that is not of our protocol", answers, err)
	}
	a.renewLeaf(t, a.server, &a.serverFiles, "server", 2*time.Hour)
	a.until(old.Leaf.NotAfter, -time.Minute)
	a.server.registry.Reconsider(a.server.identity.Current())
	cut(t, conn)
}

// TestMalformedRenewals: whatever a member says in a renewal, the server serves on and holds nothing of it.
func TestMalformedRenewals(t *testing.T) {
	noLeaks(t)
	a := startAging(t)
	config := a.tlsClient(a.ca.Issue(t, proxytest.ID("mallory")))
	config.NextProtos = []string{api.RenewALPN}
	for _, message := range [][]byte{nil, {0}, {0, 0}, {0, 1}, {0, 2, 1, 2, 3}, {255, 255}, append([]byte{1, 1}, make([]byte, 257*renewalSize)...)} {
		conn := tls.Client(dial(t, a.server.inboundAddr().String()), config)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(message) // the server may have ended it already
		_ = conn.CloseWrite()
		if got, _ := io.ReadAll(conn); len(got) != 0 {
			t.Errorf("%x is answered with %d bytes", message, len(got))
		}
		conn.Close()
	}
	eventually(t, "every renewal is over", func() bool { return a.server.inbound.Active() == 0 })
	a.client.mustExchange(t, "hello")
}

// announcing is a server of the mesh that the test plays, as a proxy that does not know renewals. It echoes on
// connections with our ALPN, and tells how a renewal ended.
func (a *aging) announcing(t *testing.T, leaf func() tls.Certificate, announcement string, renewed func(net.Conn, error)) net.Listener {
	t.Helper()
	return a.announcingAt(t, serverIP, leaf, announcement, renewed)
}

func (a *aging) announcingAt(t *testing.T, ip string, leaf func() tls.Certificate, announcement string, renewed func(net.Conn, error)) net.Listener {
	t.Helper()
	l := mustListen(t, ip)
	serveEach(t, l, func(raw net.Conn) {
		_ = raw.SetDeadline(time.Now().Add(time.Minute)) // longer than any client of this test waits
		shown := leaf()
		if announcement != "" {
			shown.SignedCertificateTimestamps = [][]byte{[]byte(announcement)}
		}
		config := serverWith(shown)
		renewal := false
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if renewal = hello.SupportedProtos[0] == api.RenewALPN; !renewal {
				return nil, nil
			}
			older := config.Clone()
			older.NextProtos, older.GetConfigForClient = nil, nil
			return older, nil
		}
		conn := tls.Server(raw, config)
		err := conn.Handshake()
		if renewal {
			renewed(conn, err)
			return
		}
		_, _ = io.Copy(conn, conn)
	})
	return l
}

// TestOlderServers: a server that says nothing of renewals gets none. One that did, and now is an older proxy, takes
// none for a connection to its app: the client ends the handshake.
func TestOlderServers(t *testing.T) {
	for name, announcement := range map[string]string{"never said so": "", "said so once": "meshless-renew/1 127.0.0.1:1"} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			a := startAging(t)
			leaf := a.ca.Issue(t, proxytest.ID("server"), a.clock.lives(time.Hour))
			renewals := make(chan error, 10)
			l := a.announcing(t, func() tls.Certificate { return leaf }, announcement, func(_ net.Conn, err error) { renewals <- err })
			a.client.dials(listen.AddrPort(l.Addr()))
			conn := a.client.open(t, "hello")
			a.until(leaf.Leaf.NotAfter, 5*time.Minute)
			a.client.outbound.Renew(t.Context())
			if announcement == "" {
				if len(renewals) > 0 {
					t.Error("a server that does not know renewals got one")
				}
			} else if err := <-renewals; err == nil {
				t.Error("the handshake succeeded: an older server would dial its app now")
			}
			goesOn(t, conn)
			a.until(leaf.Leaf.NotAfter, -time.Minute)
			a.client.registry.Reconsider(a.client.identity.Current())
			cut(t, conn)
		})
	}
}

// TestWhereRenewalsGo: through a Service they reach the pod of the connection, since it has said where it is. What it
// says is dialed only if the mesh knows it: a server must not choose what others dial.
func TestWhereRenewalsGo(t *testing.T) {
	const service = "127.0.0.15"
	for _, where := range []string{"the pod", "outside the mesh"} {
		t.Run(where, func(t *testing.T) {
			noLeaks(t)
			a := startAging(t, func(m *meshmap.Map) {
				m.Services[0].ClusterIPs = append(m.Services[0].ClusterIPs, netip.MustParseAddr(service))
			})
			leaf := a.ca.Issue(t, proxytest.ID("server"), a.clock.lives(time.Hour))
			pod, outside := make(chan net.Conn, 10), make(chan net.Conn, 10)
			accepting := func(ip string, to chan net.Conn) netip.AddrPort {
				l := mustListen(t, ip)
				serveEach(t, l, func(c net.Conn) { to <- c })
				return listen.AddrPort(l.Addr())
			}
			announced := accepting(serverIP, pod)
			if where != "the pod" {
				announced = accepting(otherIP, outside)
			}
			l := a.announcingAt(t, service, func() tls.Certificate { return leaf }, api.RenewALPN+" "+announced.String(), func(c net.Conn, _ error) { pod <- c })
			a.client.dials(listen.AddrPort(l.Addr()))
			conn := a.client.open(t, "hello")
			a.until(leaf.Leaf.NotAfter, 5*time.Minute)
			a.client.outbound.Renew(t.Context())
			eventually(t, "a renewal arrives", func() bool { return len(pod) > 0 })
			if (<-pod).LocalAddr().String() != announced.String() && where == "the pod" {
				t.Error("the renewal did not go to the address that the pod has announced")
			}
			if len(outside) > 0 {
				t.Error("an address outside the mesh was dialed since a server named it")
			}
			goesOn(t, conn)
		})
	}
}

// TestStolenServerKey: somebody on the path answers with the old key of a server, and sends renewals on to the server
// itself, who has a newer leaf. The server does not know the connection, so it ends with the old leaf.
func TestStolenServerKey(t *testing.T) {
	noLeaks(t)
	a := startAging(t)
	stolen := a.serverFiles.Leaf
	itself := api.RenewALPN + " " + a.server.inboundAddr().String()
	l := a.announcing(t, func() tls.Certificate { return stolen }, itself, func(net.Conn, error) { t.Error("the renewal did not go to the server itself") })
	a.client.dials(listen.AddrPort(l.Addr()))
	conn := a.client.open(t, "hello")
	a.until(stolen.Leaf.NotAfter, 20*time.Minute)
	a.renewLeaf(t, a.client, &a.clientFiles, "client", 2*time.Hour)
	a.renewLeaf(t, a.server, &a.serverFiles, "server", 2*time.Hour)
	a.until(stolen.Leaf.NotAfter, 5*time.Minute)
	a.client.outbound.Renew(t.Context())
	a.server.wantMetric(t, `meshless_renewals_total{direction="inbound",result="unchanged"} 1`)
	goesOn(t, conn)
	a.until(stolen.Leaf.NotAfter, -time.Minute)
	a.client.registry.Reconsider(a.client.identity.Current())
	cut(t, conn)
}
