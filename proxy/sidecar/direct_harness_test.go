package sidecar

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/listen"
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

// withoutRules makes a pod one without redirect rules, with a network of loopback addresses of its own.
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
