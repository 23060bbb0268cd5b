package sidecar

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/proxytest"
)

func TestThroughBothProxies(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	c := dial(t, m.client.outboundAddr())
	var got []byte
	var wg sync.WaitGroup
	wg.Go(func() { got, _ = io.ReadAll(c) })
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if !bytes.Equal(got, sent) {
		t.Fatalf("got %d bytes back, want the %d sent", len(got), len(sent))
	}
	m.server.wantMetric(t, `meshless_connections_closed_total{direction="inbound",reason="done",security="mutual_tls"} 1`)
	m.client.wantMetric(t, `meshless_connections_closed_total{direction="outbound",reason="done",security="mutual_tls"} 1`)
	m.client.wantMetric(t, `meshless_received_bytes_total{direction="outbound",security="mutual_tls"} 3.145728e+06`)
	checkAccessLog(t, m)
}

func checkAccessLog(t *testing.T, m *mesh) {
	t.Helper()
	var line map[string]any
	for text := range strings.SplitSeq(m.server.logs.String(), "\n") {
		if strings.Contains(text, "connection closed") {
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := map[string]any{"direction": "inbound", "dst": m.app.String(), "src_identity": proxytest.ID("client"), "reason": "done",
		"security": "mutual_tls", "bytes_received": 3145728., "bytes_sent": 3145728.}
	for k, v := range want {
		if line[k] != v {
			t.Errorf("access log: %s is %v, want %v", k, line[k], v)
		}
	}
}

func TestHalfClose(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, func(c *net.TCPConn) { // answers only after the request has ended
		request, _ := io.ReadAll(c)
		_, _ = c.Write(bytes.ToUpper(request))
	})
	c := dial(t, m.client.outboundAddr())
	_, _ = io.WriteString(c, "half")
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "HALF" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestResetIsPassedOn(t *testing.T) {
	noLeaks(t)
	ended := make(chan error, 1)
	m := startMesh(t, func(c *net.TCPConn) {
		_, err := io.Copy(c, c)
		ended <- err
	})
	c := m.client.open(t, "hello")
	_ = c.SetLinger(0)
	c.Close()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the app saw an orderly end, want a reset")
		}
	case <-time.After(5 * time.Second):
		t.Error("the app saw nothing")
	}
}

func TestServerFirstOnStrict(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, func(c *net.TCPConn) { _, _ = io.WriteString(c, "220 ready\r\n") })
	if got, err := io.ReadAll(dial(t, m.client.outboundAddr())); err != nil || string(got) != "220 ready\r\n" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestOutboundUnknown(t *testing.T) {
	noLeaks(t)
	for _, mode := range []meshmap.UnknownPolicy{meshmap.Passthrough, meshmap.DenyUnknown} {
		t.Run(string(mode), func(t *testing.T) {
			m := startMesh(t, echo, func(m *meshmap.Map) { m.Outbound.Unknown = mode })
			m.client.dials(m.app)
			err := exchange(m.client.outboundAddr(), "hello")
			if want := mode == meshmap.Passthrough; (err == nil) != want {
				t.Errorf("round trip: %v, want success: %t", err, want)
			}
		})
	}
}

func TestOutboundNeverDowngrades(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	var seen sync.Map
	plain, err := net.Listen("tcp4", serverIP+":0") // at the server's address, but not its proxy
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Close() })
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 2 { // the proxy tries twice
			c, err := plain.Accept()
			if err != nil {
				return
			}
			first := make([]byte, 1)
			_, _ = io.ReadFull(c, first)
			seen.Store(first[0], true)
			_, _ = io.WriteString(c, "220 I am plaintext\r\n")
			c.Close()
		}
	})
	m.client.dials(netip.MustParseAddrPort(plain.Addr().String()))
	if err := exchange(m.client.outboundAddr(), "secret"); err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("app got %v, want a reset", err)
	}
	wg.Wait()
	if _, ok := seen.Load(byte(0x16)); !ok {
		t.Error("no TLS hello was seen")
	}
	seen.Range(func(first, _ any) bool {
		if first != byte(0x16) {
			t.Errorf("first byte on the wire is %v, want that of a TLS hello", first)
		}
		return true
	})
	m.client.wantMetric(t, `meshless_handshake_failures_total{direction="outbound",reason="not_tls"} 1`)
}

func TestOutboundWrongIdentity(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	m.clientFiles.Mesh = proxytest.Mesh(withServer("database"))
	m.client.publish(t, m.clientFiles.Sealed(t))
	if err := exchange(m.client.outboundAddr(), "secret"); err == nil {
		t.Error("round trip succeeded with a server that may not answer")
	}
	m.client.wantMetric(t, `meshless_handshake_failures_total{direction="outbound",reason="wrong_identity"} 1`)
}

func TestOutboundMeshCIDR(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	m.clientFiles.Mesh = proxytest.Mesh(func(m *meshmap.Map) { m.Outbound.MeshCIDRs = []netip.Prefix{netip.MustParsePrefix("127.0.0.12/32")} })
	m.client.publish(t, m.clientFiles.Sealed(t))
	m.client.mustExchange(t, "hello")
	m.client.wantMetric(t, `meshless_connections_opened_total{direction="outbound",security="mutual_tls"} 1`)
}

func TestDirectConnectionToOutbound(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	m.client.dials(netip.MustParseAddrPort(m.client.outboundAddr()))
	if err := exchange(m.client.outboundAddr(), "hello"); err == nil {
		t.Error("want a reset")
	}
	m.client.wantMetric(t, `meshless_connections_refused_total{direction="outbound",reason="original_destination"} 1`)
}

func TestPolicy(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo, func(m *meshmap.Map) {
		m.Inbound.Policy = []meshmap.Policy{{Workload: proxytest.ID("server"), Rules: []meshmap.Rule{{From: []string{proxytest.ID("friend-*")}}}}}
	})
	if err := exchange(m.client.outboundAddr(), "hello"); err == nil {
		t.Error("round trip succeeded against the policy")
	}
	m.server.wantMetric(t, `meshless_denials_total{enforced="true",reason="no_rule"} 1`)
}

// TestGenerations is renewal, revocation and a change of policy while connections live.
func TestGenerations(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	c := m.client.open(t, "one")
	old := m.clientFiles.Leaf
	m.clientFiles.Leaf = m.ca.Issue(t, proxytest.ID("client"))
	m.client.publish(t, m.clientFiles.Sealed(t))
	m.server.publish(t, m.serverFiles.Sealed(t))
	if err := roundTrip(c, "two"); err != nil {
		t.Fatalf("a renewal cut a live connection: %v", err)
	}
	renewed := m.client.open(t, "three")
	m.serverFiles.Mesh.RevokedKeys = []string{svid.KeyDigest(old.Leaf)}
	m.server.publish(t, m.serverFiles.Sealed(t))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("connection of a revoked key: %v, want a reset", err)
	}
	if err := roundTrip(renewed, "four"); err != nil {
		t.Errorf("revocation of one key cut the connection of another: %v", err)
	}
	m.server.wantMetric(t, `meshless_connections_closed_total{direction="inbound",reason="no_longer_accepted",security="mutual_tls"} 1`)
	m.serverFiles.Mesh.Inbound.Default = meshmap.DenyDefault
	m.server.publish(t, m.serverFiles.Sealed(t))
	if _, err := renewed.Read(make([]byte, 1)); err == nil {
		t.Error("connection lives on against a new policy")
	}
}

// TestPlaintextEndsWhenDestinationJoins: what was outside the mesh, and is in it now, must not keep its plaintext
// connections.
func TestPlaintextEndsWhenDestinationJoins(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	m.client.dials(m.app)
	c := m.client.open(t, "hello")
	m.clientFiles.Mesh.Outbound.MeshCIDRs = []netip.Prefix{netip.MustParsePrefix(appIP + "/32")}
	m.client.publish(t, m.clientFiles.Sealed(t))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("connection lives on")
	}
}

// TestRenewalUnderLoad renews both sides many times, while requests run: none may fail.
func TestRenewalUnderLoad(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var failures sync.Map
	requests := make([]int, 4)
	for i := range requests {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := exchange(m.client.outboundAddr(), "request"); err != nil {
					failures.Store(err.Error(), true)
					return
				}
				requests[i]++
			}
		})
	}
	for range 10 {
		m.clientFiles.Leaf, m.serverFiles.Leaf = m.ca.Issue(t, proxytest.ID("client")), m.ca.Issue(t, proxytest.ID("server"))
		m.client.publish(t, m.clientFiles.Sealed(t))
		m.server.publish(t, m.serverFiles.Plain(t))
	}
	close(stop)
	wg.Wait()
	failures.Range(func(k, _ any) bool { t.Errorf("a request failed: %v", k); return true })
	for i, n := range requests {
		if n == 0 {
			t.Errorf("client %d made no request", i)
		}
	}
}
