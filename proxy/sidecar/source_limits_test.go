package sidecar

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/connection"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// Sources of the floods.
const (
	flooderIP    = "127.0.0.21"
	tlsFlooderIP = "127.0.0.24"
	bystanderIP  = "127.0.0.22"
)

func dialerFrom(ip string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 2 * time.Second}
}

// flood keeps n idle connections from flooderIP to addr open, opens each again when it ends, and returns once all were
// opened for the first time. The pause bounds what the attack costs the machine.
func flood(t *testing.T, addr string, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all, first sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	first.Add(n)
	for range n {
		all.Go(func() {
			opened := sync.OnceFunc(first.Done)
			defer opened()
			for ctx.Err() == nil {
				c, err := dialerFrom(flooderIP).DialContext(ctx, "tcp", addr)
				opened()
				if err == nil {
					stop := context.AfterFunc(ctx, func() { c.Close() })
					_, _ = c.Read(make([]byte, 1)) // until the proxy ends it
					stop()
					c.Close()
				}
				select {
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	first.Wait()
}

// TestInboundFlood: one address that opens more silent connections than there are slots does not keep another out. What
// is silent waits, and costs no goroutine.
func TestInboundFlood(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	addr := m.server.inboundAddr().String()
	flood(t, addr, m.server.limits.Handshakes+500)
	eventually(t, "they wait", func() bool { return m.server.inbound.Waiting() >= 500 })
	config := m.tlsClient(m.ca.Issue(t, proxytest.ID("client")))
	for range 3 {
		raw, err := dialerFrom(bystanderIP).Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		// sooner than the slots of a flood come free by themselves
		_ = raw.SetDeadline(time.Now().Add(connection.HandshakeTimeout))
		conn := tls.Client(raw, config)
		if err := roundTrip(conn, "hello"); err != nil {
			t.Errorf("another source: %v", err)
		}
		conn.Close()
	}
	if served := m.server.inbound.Active() - m.server.inbound.Waiting(); served > m.server.limits.Handshakes {
		t.Errorf("%d silent connections are served, of %d slots", served, m.server.limits.Handshakes)
	}
	if got := m.server.sum(t, `meshless_connections_refused_total{direction="inbound",reason="source_limit"`, ""); got != 0 {
		t.Errorf("%d were refused, and there was room", got)
	}
}

// TestConnectionFlood: a client that fills its connection pool at once is no attack. None of its connections is lost.
func TestConnectionFlood(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	var wg sync.WaitGroup
	for range 600 {
		wg.Go(func() {
			if err := patientExchange(m.client.outboundAddr(), "hello"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	eventually(t, "all connections end in order", func() bool {
		return m.server.sum(t, `meshless_connections_closed_total{direction="inbound",reason="done"`, "") == 600
	})
	for _, p := range []*pod{m.client, m.server} {
		if refused := p.sum(t, "meshless_connections_refused_total{", ""); refused != 0 {
			t.Errorf("a proxy refused %d connections:\n%s", refused, p.logs)
		}
	}
}

// patientExchange opens a connection of its own for a round trip, for which it waits for minutes, as plain TCP would.
func patientExchange(addr, text string) error {
	const patience = 3 * time.Minute
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	return roundTrip(c, text)
}

// sum adds the metrics whose lines begin with prefix and contain label.
func (p *pod) sum(t testing.TB, prefix, label string) (sum int64) {
	t.Helper()
	for line := range strings.Lines(p.scrape(t)) {
		if !strings.HasPrefix(line, prefix) || !strings.Contains(line, label) {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(line[strings.LastIndex(line, " "):]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// TestAdminFlood: idle connections of one pod do not keep the kubelet from the health port, nor Prometheus from the
// metrics.
func TestAdminFlood(t *testing.T) {
	noLeaks(t)
	p := startPod(t, serverIP, netip.MustParseAddrPort(appIP+":1"), workload(t, testca.New(t, proxytest.TrustDomain), "server").Sealed(t))
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialerFrom(bystanderIP).DialContext}}
	for addr, path := range map[string]string{p.Addresses().Metrics: "/metrics", p.Addresses().Health: "/readyz"} {
		flood(t, addr, 1100)
		for range 3 {
			response, err := client.Get("http://" + addr + path)
			if err != nil { // within the client's timeout
				t.Fatalf("%s is not served to another source: %v", path, err)
			}
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", path, response.Status)
			}
		}
	}
}
