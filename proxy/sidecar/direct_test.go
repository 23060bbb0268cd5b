package sidecar

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/test/program"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// Addresses of pods without redirect rules, as far as these can be of the loopback interface: of those nobody asks DNS.
const (
	alphaIP = "127.0.0.21"
	gammaIP = "127.0.0.23"
	evilIP  = "127.0.0.66"
)

// cluster is three pods and their DNS. Alpha and beta have no redirect rules: alpha is reached through its clusterIP,
// beta at its pod's address. Gamma has rules.
type cluster struct {
	ca                 *testca.CA
	alpha, beta, gamma *pod
	alphaAt, betaAt    uint16 // ports of their apps
	betaIP             string
	records            *records
}

// records are what the cluster's DNS says, in zone file format.
type records struct {
	mu  sync.Mutex
	all []dns.RR
	at  netip.AddrPort
}

func (r *records) add(t testing.TB, lines ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		r.all = append(r.all, rr)
	}
}

func (r *records) drop(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = slices.DeleteFunc(r.all, func(rr dns.RR) bool { return rr.Header().Name == name })
}

func (r *records) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	r.mu.Lock()
	answer := new(dns.Msg).SetReply(q)
	answer.Rcode = dns.RcodeNameError
	for _, rr := range r.all {
		if strings.EqualFold(rr.Header().Name, q.Question[0].Name) {
			answer.Rcode = dns.RcodeSuccess
			if rr.Header().Rrtype == q.Question[0].Qtype {
				answer.Answer = append(answer.Answer, rr)
			}
		}
	}
	r.mu.Unlock()
	_ = w.WriteMsg(answer)
}

func startRecords(t testing.TB) *records {
	t.Helper()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &records{at: netip.MustParseAddrPort(udp.LocalAddr().String())}
	server := &dns.Server{PacketConn: udp, Handler: r}
	done := make(chan struct{})
	go func() { _ = server.ActivateAndServe(); close(done) }()
	t.Cleanup(func() { udp.Close(); <-done })
	return r
}

// machineIP is an address of this machine that is no loopback one: a pod's, of which DNS is asked.
func machineIP(t testing.TB) string {
	t.Helper()
	for _, a := range destination.SystemAddresses() {
		if a.Is4() {
			return a.String()
		}
	}
	program.Missing(t, "an IPv4 address that is no loopback one")
	return ""
}

// direct makes a pod one without redirect rules, with a network of loopback addresses of its own.
func withoutRules(r *records, ip, loopbacks string, port uint16) func(*Options) {
	return func(o *Options) {
		o.Redirect = nil
		o.Direct = &podplan.Direct{Ports: netset.PortsOf(port), AppAddress: podplan.AppPod}
		o.Addresses.Resolver, o.NameServers, o.loopbacks = ip+":0", []netip.AddrPort{r.at}, netip.MustParsePrefix(loopbacks)
		o.PodAddresses = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr(ip)} }
	}
}

const zone = ".prod.svc.cluster.local."

func reverse(t testing.TB, ip, name string) string {
	t.Helper()
	arpa, err := dns.ReverseAddr(ip)
	if err != nil {
		t.Fatal(err)
	}
	return arpa + " 5 IN PTR " + name
}

// startCluster starts the pods, whose apps all do the same.
func startCluster(t testing.TB, handle func(*net.TCPConn), changes ...func(*meshmap.Map)) *cluster {
	t.Helper()
	c := &cluster{ca: testca.New(t, proxytest.TrustDomain), betaIP: machineIP(t), records: startRecords(t)}
	alpha, beta, gamma := startAppAt(t, alphaIP, handle), startAppAt(t, c.betaIP, handle), startAppAt(t, appIP, handle)
	c.alphaAt, c.betaAt = alpha.Port(), beta.Port()
	gammaPort := freePort(t, gammaIP)
	services := func(m *meshmap.Map) {
		m.Services = []meshmap.Service{
			{Host: "alpha.prod.svc.cluster.local", ClusterIPs: []netip.Addr{netip.MustParseAddr(alphaIP)}, Identities: []string{proxytest.ID("alpha")}, DirectPorts: netset.PortsOf(c.alphaAt)},
			{Host: "beta.prod.svc.cluster.local", Identities: []string{proxytest.ID("beta")}, DirectPorts: netset.PortsOf(c.betaAt)},
			{Host: "gamma.prod.svc.cluster.local", ClusterIPs: []netip.Addr{netip.MustParseAddr(gammaIP)}, Identities: []string{proxytest.ID("gamma")}},
		}
		m.ServicePorts = map[string]netset.Ports{"alpha.prod": netset.PortsOf(api.DirectPort(c.alphaAt)), "beta.prod": netset.PortsOf(c.betaAt), "gamma.prod": netset.PortsOf(gammaPort)}
	}
	changes = append([]func(*meshmap.Map){services}, changes...)
	c.records.add(t, "alpha"+zone+" 5 IN A "+alphaIP, "gamma"+zone+" 5 IN A "+gammaIP, "beta"+zone+" 5 IN A "+c.betaIP, "beta-0.beta"+zone+" 5 IN A "+c.betaIP,
		reverse(t, c.betaIP, "beta-0.beta"+zone), "unknown"+zone+" 5 IN A "+evilIP)
	start := func(name, ip string, app netip.AddrPort, changesOfPod ...func(*Options)) *pod {
		return startPod(t, ip, app, workload(t, c.ca, name, changes...).Sealed(t), changesOfPod...)
	}
	c.alpha = start("alpha", alphaIP, alpha, withoutRules(c.records, alphaIP, "127.65.0.0/16", c.alphaAt))
	c.beta = start("beta", c.betaIP, beta, withoutRules(c.records, c.betaIP, "127.66.0.0/16", c.betaAt))
	c.gamma = start("gamma", gammaIP, gamma, func(o *Options) {
		o.Addresses.Inbound, o.NameServers = fmt.Sprintf("%s:%d", gammaIP, gammaPort), []netip.AddrPort{c.records.at}
	})
	return c
}

func freePort(t testing.TB, ip string) uint16 {
	t.Helper()
	l := mustListen(t, ip)
	defer l.Close()
	return listen.AddrPort(l.Addr()).Port()
}

// resolve asks the pod's name server, as an app does.
func (p *pod) resolve(t testing.TB, name string) ([]netip.Addr, error) {
	t.Helper()
	client := dns.Client{Timeout: 10 * time.Second}
	answer, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), p.Addresses().Resolver)
	if err != nil {
		return nil, err
	}
	if answer.Rcode != dns.RcodeSuccess {
		return nil, errors.New(dns.RcodeToString[answer.Rcode])
	}
	var addrs []netip.Addr
	for _, rr := range answer.Answer {
		if a, ok := rr.(*dns.A); ok {
			addr, _ := netip.AddrFromSlice(a.A)
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs, nil
}

// at is where the app of p gets to by a name and a port of the mesh.
func (p *pod) at(t testing.TB, name string, port uint16) string {
	t.Helper()
	addrs, err := p.resolve(t, name+zone)
	if err != nil || len(addrs) != 1 || !addrs[0].IsLoopback() {
		t.Fatalf("%s leads to %v (%v)", name, addrs, err)
	}
	return netip.AddrPortFrom(addrs[0], port).String()
}

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
		m.ServicePorts = map[string]netset.Ports{"gamma.prod": netset.PortsOf(c.gamma.inboundAddr().Port(), api.MetricsPort), "beta.prod": netset.PortsOf(20001)}
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
	if addrs, err := p.resolve(t, "beta"+zone); err == nil || !strings.Contains(p.logs.String(), "port 20001 of the Service is where the proxy of this pod takes what is for port 1 of its app") {
		t.Errorf("a port of ours: %v", addrs)
	}
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
		}, "port 28080, at which the proxy takes what is for port 8080 of the app"},
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
