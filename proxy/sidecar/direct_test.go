package sidecar

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// TestDirect: pods without redirect rules talk to each other and to one with rules, both ways, through a clusterIP and
// at a pod, by whatever case of a name.
func TestDirect(t *testing.T) {
	noLeaks(t)
	c := startCluster(t, echo)
	gammaPort := c.gamma.inboundAddr().Port()
	for _, talk := range []struct{ who, at, peer string }{
		{"alpha to beta", c.alpha.at(t, "beta", c.betaAt), "beta"},
		{"alpha to beta, by the name of the pod", c.alpha.at(t, "BETA-0.beta", c.betaAt), "beta"},
		{"beta to alpha", c.beta.at(t, "Alpha", api.DirectPort(c.alphaAt)), "alpha"},
		{"alpha to gamma", c.alpha.at(t, "gamma", gammaPort), "gamma"},
		{"beta to gamma", c.beta.at(t, "gamma", gammaPort), "gamma"},
		{"beta to itself", c.beta.at(t, "beta", c.betaAt), "beta"},
	} {
		if err := exchange(talk.at, "hello"); err != nil {
			t.Errorf("%s: %v", talk.who, err)
		}
	}
	for who, dst := range map[string]string{"gamma to alpha": fmt.Sprintf("%s:%d", alphaIP, api.DirectPort(c.alphaAt)), "gamma to beta": fmt.Sprintf("%s:%d", c.betaIP, c.betaAt)} {
		c.gamma.dials(netip.MustParseAddrPort(dst))
		if err := exchange(c.gamma.outboundAddr(), "hello"); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
	for p, want := range map[*pod][2]int{c.alpha: {2, 3}, c.beta: {4, 3}, c.gamma: {2, 2}} {
		p.wantMetric(t, fmt.Sprintf(`meshless_connections_closed_total{direction="inbound",reason="done",security="mutual_tls"} %d`, want[0]))
		p.wantMetric(t, fmt.Sprintf(`meshless_connections_closed_total{direction="outbound",reason="done",security="mutual_tls"} %d`, want[1]))
	}
	if want := fmt.Sprintf(`"dst":"%s:%d"`, c.betaIP, c.betaAt); !strings.Contains(c.alpha.logs.String(), want) {
		t.Errorf("no %s in the log of alpha", want)
	}
	for _, p := range []*pod{c.alpha, c.gamma} {
		if want := fmt.Sprintf(`"dialed":"%s:%d"`, c.betaIP, api.DirectPort(c.betaAt)); !strings.Contains(p.logs.String(), want) {
			t.Errorf("no %s in the log of %s", want, p.Addresses().Admin)
		}
	}
	if want := fmt.Sprintf(`"src_app":"%s:`, c.betaIP); !strings.Contains(c.beta.logs.String(), want) {
		t.Errorf("no %s in the log of beta: its app must see the pod's own address as its client", want)
	}
	c.alpha.wantMetric(t, `meshless_dns_queries_total{result="mesh"} 3`)
	c.alpha.wantMetric(t, `meshless_loopback_listeners 2`)
	if _, body := c.alpha.get(t, http.MethodGet, "/configz"); !strings.Contains(body, `"service": "beta.prod"`) || !strings.Contains(body, `"loopback": "127.65.`) {
		t.Errorf("/configz has no loopback addresses:\n%s", body)
	}
}

// TestDirectSearch: what a resolver makes of short names by the pod's search list ends at the name that exists, and not
// before.
func TestDirectSearch(t *testing.T) {
	noLeaks(t)
	c := startCluster(t, echo)
	for _, short := range []string{"beta", "beta.prod", "beta.prod.svc", "beta-0.beta", "BETA-0.Beta.prod"} {
		var tried []string
		for _, domain := range []string{"prod.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", ""} {
			addrs, err := c.alpha.resolve(t, short+"."+domain)
			if err != nil {
				tried = append(tried, err.Error())
				continue
			}
			if len(addrs) != 1 || exchange(netip.AddrPortFrom(addrs[0], c.betaAt).String(), "hello") != nil {
				t.Errorf("%s leads to %v", short, addrs)
			}
			tried = append(tried, "found")
			break
		}
		if got := strings.ReplaceAll(strings.Join(tried, " "), "NXDOMAIN ", ""); got != "found" {
			t.Errorf("%s: %s", short, tried)
		}
	}
}

// TestDirectProtocols: a server speaks first, and each side ends its own half.
func TestDirectProtocols(t *testing.T) {
	noLeaks(t)
	c := startCluster(t, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "220 ready\n")
		got, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "%d bytes", len(got))
	})
	conn := dial(t, c.alpha.at(t, "beta", c.betaAt))
	greeting := make([]byte, 10)
	if _, err := io.ReadFull(conn, greeting); err != nil || string(greeting) != "220 ready\n" {
		t.Fatalf("%q, %v", greeting, err)
	}
	_, _ = conn.Write(bytes.Repeat([]byte("x"), 300_000))
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "300000 bytes" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestDirectAppOnLoopback: an app that listens on 127.0.0.1 alone is reached there, and its port is nobody else's.
func TestDirectAppOnLoopback(t *testing.T) {
	noLeaks(t)
	r := startRecords(t)
	app := startAppAt(t, "127.0.0.1", func(c *net.TCPConn) { fmt.Fprint(c, listen.AddrPort(c.RemoteAddr()).Addr()) })
	ca := testca.New(t, proxytest.TrustDomain)
	files := workload(t, ca, "alpha")
	p := startPod(t, alphaIP, app, files.Sealed(t), withoutRules(r, alphaIP, "127.67.0.0/16", app.Port()), func(o *Options) { o.Direct.AppAddress = podplan.AppLoopback })
	m := &mesh{ca: ca}
	conn := tls.Client(dial(t, p.Addresses().Inbound), m.tlsClient(ca.Issue(t, proxytest.ID("client"))))
	if got, err := io.ReadAll(conn); err != nil || string(got) != "127.0.0.1" {
		t.Errorf("the app sees %q, %v", got, err)
	}
}

// TestDirectPermissive: the modes of ports are those of the app's ports.
func TestDirectPermissive(t *testing.T) {
	noLeaks(t)
	c := startCluster(t, echo, permissive)
	if err := exchange(c.beta.Addresses().Inbound, "plaintext"); err != nil {
		t.Error(err)
	}
	if err := exchange(c.alpha.at(t, "beta", c.betaAt), "mutual TLS"); err != nil {
		t.Error(err)
	}
	c.beta.wantMetric(t, `meshless_connections_opened_total{direction="inbound",security="plaintext"} 1`)
	c.beta.wantMetric(t, `meshless_connections_opened_total{direction="inbound",security="mutual_tls"} 1`)
}

// TestDirectRenewal: a connection to a pod without redirect rules outlives its leaves, at the proxy's own port.
func TestDirectRenewal(t *testing.T) {
	noLeaks(t)
	clock := new(clock)
	r := startRecords(t)
	ip := machineIP(t)
	app := startAppAt(t, ip, echo)
	a := &aging{mesh: &mesh{ca: testca.New(t, proxytest.TrustDomain)}, clock: clock}
	services := func(m *meshmap.Map) {
		m.Services = []meshmap.Service{{Host: "server.prod.svc.cluster.local", Identities: []string{proxytest.ID("server")}, DirectPorts: netset.PortsOf(app.Port())}}
		m.ServicePorts = map[string]netset.Ports{"server.prod": netset.PortsOf(app.Port())}
	}
	r.add(t, "server"+zone+" 5 IN A "+ip, "server-0.server"+zone+" 5 IN A "+ip, reverse(t, ip, "server-0.server"+zone))
	a.serverFiles, a.clientFiles = workload(t, a.ca, "server", services), workload(t, a.ca, "client", services)
	a.serverFiles.Leaf, a.clientFiles.Leaf = a.ca.Issue(t, proxytest.ID("server"), clock.lives(time.Hour)), a.ca.Issue(t, proxytest.ID("client"), clock.lives(time.Hour))
	byClock := func(o *Options) { o.Now = clock.now }
	a.server = startPod(t, ip, app, a.serverFiles.Sealed(t), withoutRules(r, ip, "127.69.0.0/16", app.Port()), byClock)
	a.client = startPod(t, alphaIP, app, a.clientFiles.Sealed(t), withoutRules(r, alphaIP, "127.70.0.0/16", 1), byClock)
	conn := dial(t, a.client.at(t, "server", app.Port()))
	goesOn(t, conn)
	a.bothRenewed(t)
	goesOn(t, conn)
	a.client.wantMetric(t, `meshless_renewals_total{direction="outbound",result="renewed"}`)
}

// TestDirectIPv6: a pod that has IPv6 alone reaches the mesh by IPv4 addresses in the form of IPv6.
func TestDirectIPv6(t *testing.T) {
	noLeaks(t)
	c := startCluster(t, echo)
	gammaPort := c.gamma.inboundAddr().Port()
	ca6 := workload(t, c.ca, "delta", func(m *meshmap.Map) { *m = *c.alpha.identity.Current().Mesh })
	delta := startPod(t, "127.0.0.24", netip.MustParseAddrPort("127.0.0.24:1"), ca6.Sealed(t), withoutRules(c.records, "127.0.0.24", "127.71.0.0/16", 1), func(o *Options) {
		o.PodAddresses = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("fd00::24")} }
	})
	client := dns.Client{Timeout: 10 * time.Second}
	answer, _, err := client.Exchange(new(dns.Msg).SetQuestion("gamma"+zone, dns.TypeAAAA), delta.Addresses().Resolver)
	if err != nil || len(answer.Answer) != 1 {
		t.Fatalf("%v, %v", answer, err)
	}
	addr := netip.AddrFrom16([16]byte(answer.Answer[0].(*dns.AAAA).AAAA))
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0) // as a program of IPv6 does
	if err != nil {
		t.Skip(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Connect(fd, &syscall.SockaddrInet6{Addr: addr.As16(), Port: int(gammaPort)}); err != nil {
		t.Fatalf("%s: %v", addr, err)
	}
	if _, err := syscall.Write(fd, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if n, err := syscall.Read(fd, got); err != nil || string(got[:n]) != "hello" {
		t.Errorf("%q, %v", got[:n], err)
	}
}

// TestDirectBind: all ports or none, and errors that name the way out.
func TestDirectBind(t *testing.T) {
	taken := mustListen(t, alphaIP)
	defer taken.Close()
	o := func(change func(*Options)) Options {
		options := Options{Directory: t.TempDir(), Direct: &podplan.Direct{Ports: netset.PortsOf(8080)}, NameServers: []netip.AddrPort{}, Records: relay.Own,
			Addresses: Addresses{Inbound: alphaIP + ":0", Metrics: alphaIP + ":0", Health: alphaIP + ":0", Admin: alphaIP + ":0", Resolver: alphaIP + ":0"}}
		change(&options)
		return options
	}
	for what, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"the name server's port": {func(o *Options) { o.Addresses.Resolver = taken.Addr().String() }, "another container of the pod answers at"},
		"a direct port": {func(o *Options) {
			o.Addresses.Inbound = "192.0.2.222:0"
		}, "port 30080, at which the proxy takes what is for port 8080 of the app"},
	} {
		if s, err := New(o(c.change)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v", what, s, err)
		}
	}
	if l, err := listen.Bind(fmt.Sprintf("%s:%d", alphaIP, api.DirectPort(8080))); err != nil {
		t.Errorf("a port stays bound: %v", err)
	} else {
		l[0].Close()
	}
	err := namesError(&net.OpError{Op: "listen", Err: syscall.EACCES}, "127.0.0.53:53")
	if !strings.Contains(err.Error(), "net.ipv4.ip_unprivileged_port_start") || !strings.Contains(err.Error(), "127.0.0.53:53") {
		t.Error(err)
	}
}

// TestDirectEnds: a sidecar that never had files gives all up, and one that has some leaves nothing open.
func TestDirectEnds(t *testing.T) {
	noLeaks(t)
	r := startRecords(t)
	p := startPod(t, alphaIP, netip.MustParseAddrPort(alphaIP+":1"), nil, withoutRules(r, alphaIP, "127.72.0.0/16", 1))
	at := p.Addresses().Resolver
	p.Shutdown()
	if err := <-p.done; err != nil {
		t.Error(err)
	}
	if l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", at); err != nil {
		t.Errorf("%s stays bound: %v", at, err)
	} else {
		l.Close()
	}
}
