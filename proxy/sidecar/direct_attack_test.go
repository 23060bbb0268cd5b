package sidecar

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// TestAttackDirectDNS: whoever writes the answers of DNS leads no connection of the app to somebody else. A name of the
// mesh that leads to a foreign address, or to another workload of the mesh, ends there, and no byte of the app leaves.
func TestAttackDirectDNS(t *testing.T) {
	noLeaks(t)
	c := startCluster(t, echo)
	var mu sync.Mutex
	var heard []byte
	evil := startAppAt(t, evilIP, func(conn *net.TCPConn) {
		buffer := make([]byte, 4<<10)
		n, _ := conn.Read(buffer)
		mu.Lock()
		heard = append(heard, buffer[:n]...)
		mu.Unlock()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	})
	files := workload(t, c.ca, "alpha", func(m *meshmap.Map) {
		*m = *c.alpha.identity.Current().Mesh
		m.ServicePorts = map[string]netset.Ports{"victim.prod": netset.PortsOf(evil.Port(), c.gamma.inboundAddr().Port()), "beta.prod": netset.PortsOf(evil.Port(), c.betaAt)}
		m.Services = append(slices.Clone(m.Services), meshmap.Service{Host: "victim.prod.svc.cluster.local", Identities: []string{proxytest.ID("victim")}})
	})
	c.alpha.publish(t, files.Sealed(t))
	for what, lie := range map[string]struct {
		name    string
		records []string
		port    uint16
	}{
		"a foreign address":               {"victim", []string{"victim" + zone + " 5 IN A " + evilIP}, evil.Port()},
		"another workload of the mesh":    {"victim", []string{"victim" + zone + " 5 IN A " + gammaIP}, c.gamma.inboundAddr().Port()},
		"a foreign address, by an alias":  {"victim", []string{"victim" + zone + " 5 IN CNAME evil.example.", "evil.example. 5 IN A " + evilIP}, evil.Port()},
		"a foreign address of a pod's":    {"beta-9.beta", []string{"beta-9.beta" + zone + " 5 IN A " + evilIP}, evil.Port()},
		"this pod's own loopback address": {"victim", []string{"victim" + zone + " 5 IN A 127.0.0.1"}, evil.Port()},
	} {
		c.records.add(t, lie.records...)
		addrs, err := c.alpha.resolve(t, lie.name+zone)
		if err == nil && len(addrs) == 1 && addrs[0].IsLoopback() && addrs[0] != netip.MustParseAddr(evilIP) {
			err = exchange(netip.AddrPortFrom(addrs[0], lie.port).String(), "a secret of the app")
		} else if err == nil && len(addrs) > 0 {
			t.Errorf("%s: %v", what, addrs)
		}
		if err == nil && len(addrs) > 0 {
			t.Errorf("%s: the app talks to it", what)
		}
		c.records.drop(lie.name + zone)
	}
	mu.Lock()
	defer mu.Unlock()
	if bytes.Contains(heard, []byte("secret")) {
		t.Errorf("%q left the pod", heard)
	}
	if passed := c.alpha.scrape(t); strings.Contains(passed, `connections_opened_total{direction="outbound",security="passthrough"} 1`) {
		t.Error("something was passed on")
	}
}

// TestAttackDirectPorts: on the proxy's ports for the app's, a stranger gets what he gets where rules lead him there.
func TestAttackDirectPorts(t *testing.T) {
	noLeaks(t)
	c := startCluster(t, echo)
	beta := c.beta.Addresses().Inbound
	if host, _, _ := net.SplitHostPort(beta); host != c.betaIP {
		t.Fatalf("beta is at %s", beta)
	}
	if err := exchange(beta, "plaintext"); err == nil {
		t.Error("plaintext gets in")
	}
	m := &mesh{ca: c.ca}
	attempt := func(leaf tls.Certificate) error {
		conn := tls.Client(dial(t, beta), m.tlsClient(leaf))
		defer conn.Close()
		return roundTrip(conn, "hello")
	}
	for _, stranger := range testca.Strangers(t, c.ca, proxytest.ID("alpha"))[:3] {
		if err := attempt(stranger.Chain); err == nil {
			t.Errorf("%s gets in", stranger.Name)
		}
	}
	if err := attempt(c.ca.Issue(t, proxytest.ID("client"))); err != nil {
		t.Errorf("a member is kept out: %v", err)
	}
	c.beta.wantMetric(t, `meshless_connections_refused_total{direction="inbound",reason="handshake_failed"} 4`)
}

// TestDirectForeignAddress: a direct port that is reached at an address which is not the pod's, such as a loopback one,
// leads nowhere.
func TestDirectForeignAddress(t *testing.T) {
	noLeaks(t)
	r := startRecords(t)
	app := startAppAt(t, alphaIP, echo)
	ca := testca.New(t, proxytest.TrustDomain)
	p := startPod(t, alphaIP, app, workload(t, ca, "alpha").Sealed(t), withoutRules(r, alphaIP, "127.68.0.0/16", app.Port()), func(o *Options) { o.Addresses.Inbound = "127.0.0.29:0" })
	conn := tls.Client(dial(t, p.Addresses().Inbound), (&mesh{ca: ca}).tlsClient(ca.Issue(t, proxytest.ID("client"))))
	if err := roundTrip(conn, "hello"); err == nil {
		t.Error("the app is reached")
	}
	p.wantMetric(t, `meshless_connections_refused_total{direction="inbound",reason="foreign_address"} 1`)
}

// TestDirectNamesRefused: a name of the mesh that cannot be led to the proxy gets SERVFAIL, and the log has the way
// out.
func TestDirectNamesRefused(t *testing.T) {
	noLeaks(t)
	c := startCluster(t, echo)
	if addrs, err := c.alpha.resolve(t, "unknown"+zone); err == nil || err.Error() != "SERVFAIL" {
		t.Errorf("a name without ports: %v, %v", addrs, err)
	}
	if addrs, err := c.alpha.resolve(t, "none"+zone); err == nil || err.Error() != "NXDOMAIN" {
		t.Errorf("no name: %v, %v", addrs, err)
	}
	app, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", c.gamma.inboundAddr().Port()+1))
	if err != nil {
		t.Skip(err) // somebody has it
	}
	defer app.Close()
	files := workload(t, c.ca, "alpha", func(m *meshmap.Map) {
		*m = *c.alpha.identity.Current().Mesh
		m.ServicePorts = map[string]netset.Ports{"gamma.prod": netset.PortsOf(listen.AddrPort(app.Addr()).Port())}
	})
	c.alpha.publish(t, files.Sealed(t))
	if addrs, err := c.alpha.resolve(t, "gamma"+zone); err == nil || err.Error() != "SERVFAIL" {
		t.Errorf("a port that the app has: %v, %v", addrs, err)
	}
	for _, want := range []string{"spec.redirect.services", "let it listen on the pod's address"} {
		if !strings.Contains(c.alpha.logs.String(), want) {
			t.Errorf("no %q in the log", want)
		}
	}
	c.alpha.wantMetric(t, `meshless_dns_queries_total{result="refused"} 2`)
}

// TestDirectOwnPorts: the proxy's own ports on all addresses are never those of a Service.
func TestDirectOwnPorts(t *testing.T) {
	noLeaks(t)
	c := startCluster(t, echo)
	delta := workload(t, c.ca, "delta", func(m *meshmap.Map) {
		*m = *c.alpha.identity.Current().Mesh
		m.ServicePorts = map[string]netset.Ports{"gamma.prod": netset.PortsOf(c.gamma.inboundAddr().Port(), api.MetricsPort), "beta.prod": netset.PortsOf(22001)}
	})
	p := startPod(t, "127.0.0.24", netip.MustParseAddrPort("127.0.0.24:1"), delta.Sealed(t), withoutRules(c.records, "127.0.0.24", "127.73.0.0/16", 1), func(o *Options) {
		o.Addresses.Metrics = fmt.Sprintf(":%d", api.MetricsPort)
	})
	if err := exchange(p.at(t, "gamma", c.gamma.inboundAddr().Port()), "hello"); err != nil {
		t.Error(err)
	}
	if status, body, err := fetch(http.MethodGet, p.at(t, "gamma", api.MetricsPort), "/metrics"); err == nil {
		t.Errorf("gamma's metrics are our own: %d, %d bytes", status, len(body))
	}
	if status, _, err := fetch(http.MethodGet, fmt.Sprintf("127.0.0.24:%d", api.MetricsPort), "/metrics"); err != nil || status != http.StatusOK {
		t.Errorf("our metrics: %d, %v", status, err)
	}
	if addrs, err := p.resolve(t, "beta"+zone); err == nil || !strings.Contains(p.logs.String(), "port 22001 of the Service is where the proxy of this pod takes what is for port 1 of its app") {
		t.Errorf("a port of ours: %v", addrs)
	}
}
