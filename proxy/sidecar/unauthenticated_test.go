package sidecar

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/proxy/connection"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// TestClaimedIdentityIsNotLogged: anybody gets a pod's certificate by connecting to it. Shown without its key, it must
// not put the pod's name into the log as one who was there, nor into the report of a dry run, from which an operator
// would write rules.
func TestClaimedIdentityIsNotLogged(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo, denyAll, dryRun)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	claimed := tls.Certificate{Certificate: m.ca.Issue(t, proxytest.ID("victim")).Certificate, PrivateKey: other}
	for range 20 {
		if err := m.tlsExchange(t, m.tlsClient(claimed)); err == nil {
			t.Fatal("a certificate without its key was accepted")
		}
	}
	m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound",reason="not_tls"} 20`)
	for _, lie := range []string{`"src_identity":"` + proxytest.ID("victim"), "connection would be denied"} {
		if strings.Contains(m.server.logs.String(), lie) {
			t.Errorf("the log holds %s", lie)
		}
	}
}

// TestLargeHandshake: a stranger cannot make us hold what crypto/tls would take, a quarter of a megabyte for each
// connection.
func TestLargeHandshake(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	large := m.ca.Issue(t, proxytest.ID("client"), func(c *x509.Certificate) {
		for range 4000 {
			c.DNSNames = append(c.DNSNames, "a-long-name-that-nobody-needs.example")
		}
	})
	if err := m.tlsExchange(t, m.tlsClient(large)); err == nil {
		t.Error("accepted")
	}
	m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound",reason="too_large"} 1`)
	chain := m.ca.Issue(t, proxytest.ID("client"))
	for range 8 { // a chain that somebody may really have
		chain.Certificate = append(chain.Certificate, m.ca.Certificate.Raw)
	}
	if err := m.tlsExchange(t, m.tlsClient(chain)); err != nil {
		t.Errorf("a long chain: %v", err)
	}
}

// crowded is a server of few places: flooderIP gets the app behind a Permissive port, everybody else the one behind a
// Strict port.
func crowded(t *testing.T, m *mesh) string {
	t.Helper()
	slow := func(c *net.TCPConn) {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		echo(c)
	}
	open, passing := startApp(t, slow), startApp(t, slow)
	m.serverFiles.Workload.PermissivePorts, m.serverFiles.Workload.TLSPassthroughPorts = netset.PortsOf(open.Port()), netset.PortsOf(passing.Port())
	m.server.publish(t, m.serverFiles.Sealed(t))
	l := mustListen(t, "127.0.0.40")
	c := connection.Config{Listeners: []net.Listener{l}, Current: m.server.identity.Current, Registry: m.server.registry, Engine: m.server.engine, Telemetry: m.server.telemetry,
		OriginalDst: func(c *net.TCPConn) (netip.AddrPort, error) {
			switch listen.AddrPort(c.RemoteAddr()).Addr().String() {
			case flooderIP:
				return open, nil
			case tlsFlooderIP:
				return passing, nil
			}
			return m.app, nil
		},
		Limits: connection.NewLimits(budget.Budget{Connections: 100, Park: 20, Handshakes: 40})}
	s, err := connection.NewInbound(connection.InboundConfig{Config: c, OwnAddress: func(netip.Addr) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(t.Context(), nil)
	}()
	t.Cleanup(func() { m.server.registry.AbortAll(net.ErrClosed); <-done })
	return l.Addr().String()
}

// TestPlaintextDoesNotStarve: whoever may speak plaintext to one port is nobody known, and must not close the others by
// what it holds open.
func TestPlaintextDoesNotStarve(t *testing.T) {
	m := startMesh(t, echo)
	addr := crowded(t, m)
	for range 120 {
		c, err := dialerFrom(flooderIP).Dial("tcp", addr)
		if err != nil {
			continue // a refusal can be seen as early as that
		}
		t.Cleanup(func() { c.Close() })
		_, _ = c.Write([]byte("x"))
	}
	m.server.wantMetric(t, `meshless_connections_refused_total{direction="inbound",reason="plaintext_limit"}`)
	m.memberGetsIn(t, addr, bystanderIP)
}

// TestStrangersShareOneLimit: plaintext to one port and TLS that the app terminates on another fill the same half of
// what there is, from however many addresses they come.
func TestStrangersShareOneLimit(t *testing.T) {
	m := startMesh(t, echo)
	addr := crowded(t, m)
	hello := clientHello(t, &tls.Config{InsecureSkipVerify: true})
	strangers := budget.Budget{Connections: 100}.Strangers()
	for i := range strangers + 10 {
		from, first := flooderIP, []byte("x")
		if i%2 == 1 {
			from, first = tlsFlooderIP, hello
		}
		c, err := dialerFrom(from).Dial("tcp", addr)
		if err != nil {
			continue
		}
		t.Cleanup(func() { c.Close() })
		_, _ = c.Write(first)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, _ = c.Read(make([]byte, 1)) // the echo, or the refusal
	}
	m.server.wantMetric(t, `meshless_connections_refused_total{direction="inbound",reason="plaintext_limit"} 10`)
	m.server.wantMetric(t, fmt.Sprintf(`meshless_connections_open{direction="inbound",security="tls_passthrough"} %d`, strangers/2))
	m.memberGetsIn(t, addr, bystanderIP)
}

// TestMemberDoesNotStarve: a member that is alone may hold all there is. Shares count when others want places: then the
// one that holds most gives up what is idle for longest, and says so.
func TestMemberDoesNotStarve(t *testing.T) {
	m := startMesh(t, func(c *net.TCPConn) {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		echo(c)
	})
	addr := crowded(t, m)
	hold := func(id, from string, n int) (held int) {
		config := m.tlsClient(m.ca.Issue(t, proxytest.ID(id)))
		for range n {
			raw, err := dialerFrom(from).Dial("tcp", addr)
			if err != nil {
				continue
			}
			t.Cleanup(func() { raw.Close() })
			_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
			if roundTrip(tls.Client(raw, config), "mine") == nil {
				held++
			}
		}
		return held
	}
	// one identity at ten addresses: its share is one
	held := 0
	for i := range 10 {
		held += hold("client", fmt.Sprintf("127.0.2.%d", i+1), 10)
	}
	if held != 100 {
		t.Errorf("an identity that is alone holds %d of 100", held)
	}
	const others = 20
	if got := hold("other", bystanderIP, others); got != others {
		t.Errorf("%d of %d connections of another identity get in", got, others)
	}
	m.server.wantMetric(t, `meshless_connections_closed_total{direction="inbound",reason="given_up",security="mutual_tls"}`)
	if !strings.Contains(m.server.logs.String(), `"holder":"`+proxytest.ID("client")) {
		t.Errorf("the log does not say who gave way:\n%s", m.server.logs)
	}
}

func (m *mesh) memberGetsIn(t *testing.T, addr, from string) {
	t.Helper()
	raw, err := dialerFrom(from).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	if err := roundTrip(tls.Client(raw, m.tlsClient(m.ca.Issue(t, proxytest.ID("client")))), "hello"); err != nil {
		t.Errorf("a member is kept out: %v", err)
	}
}
