//go:build linux

package lab

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
)

const clusterDomain = "cluster.local."

// upstreamAddr is the name server that CoreDNS asks for what is not of the cluster.
var upstreamAddr = netip.MustParseAddr("10.42.255.54")

// nameServer answers as the later versions of CoreDNS do with the kubernetes plugin: Services, headless Services, names
// of endpoints, aliases, and the reverse of all. It can lie, which CoreDNS cannot.
type nameServer struct {
	lab     *Lab
	only    atomic.Int32 // 4 or 6: addresses of the other family are not told
	queries atomic.Int64
	lie     atomic.Pointer[func(query, honest *dns.Msg) *dns.Msg]
	servers []*dns.Server
}

// serveDNS starts a name server on the first node, by UDP and TCP.
func (l *Lab) serveDNS(at netip.Addr, handler dns.Handler) ([]*dns.Server, error) {
	var packets net.PacketConn
	var listener net.Listener
	address := net.JoinHostPort(at.String(), "53")
	err := l.Node.Do(func() (err error) {
		if packets, err = net.ListenPacket("udp", address); err != nil {
			return err
		}
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return nil, err
	}
	servers := []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: listener, Handler: handler}}
	for _, server := range servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go server.ActivateAndServe() // ends with Shutdown; a failing server shows as failing look-ups
		<-started
	}
	return servers, nil
}

// startNames starts the cluster's name server, and gives the cluster what every cluster has: the Services of the API
// server and of the name server, without endpoints.
func (l *Lab) startNames() (err error) {
	port := func(number int32) []corev1.ServicePort { return []corev1.ServicePort{{Port: number}} }
	for key, service := range map[string]*serviceState{
		"default/kubernetes":   {ips: l.network.service(kubernetesPlace), Service: corev1.Service{Spec: corev1.ServiceSpec{Ports: port(443)}}},
		"kube-system/kube-dns": {ips: []netip.Addr{l.dns}, Service: corev1.Service{Spec: corev1.ServiceSpec{Ports: port(53)}}},
	} {
		service.Namespace, service.Name, _ = strings.Cut(key, "/")
		l.services[key] = service
	}
	l.names = &nameServer{lab: l}
	if l.coreDNS != "" {
		return l.startCoreDNS()
	}
	l.names.servers, err = l.serveDNS(l.dns, l.names)
	return err
}

func (l *Lab) stopNames() (err error) {
	if l.names != nil {
		for _, server := range l.names.servers {
			err = errors.Join(err, server.Shutdown())
		}
	}
	if l.api != nil {
		err = errors.Join(err, l.api.stop())
	}
	return err
}

// OnlyFamily makes the DNS server tell addresses of one family, 4 or 6; 0 is both.
func (l *Lab) OnlyFamily(family int) {
	l.wantStub("one family")
	l.names.only.Store(int32(family))
}

// Lie has the name server answer what the function makes of a query and the honest answer; nil is no answer at all. It
// is called from several goroutines. Lie(nil) ends that.
func (l *Lab) Lie(lie func(query, honest *dns.Msg) *dns.Msg) {
	l.wantStub("lies")
	if lie == nil {
		l.names.lie.Store(nil)
		return
	}
	l.names.lie.Store(&lie)
}

// Queries is how many queries the name server has got.
func (l *Lab) Queries() int {
	l.wantStub("a count of queries")
	return int(l.names.queries.Load())
}

func (l *Lab) wantStub(what string) {
	l.tb.Helper()
	if l.coreDNS != "" {
		l.tb.Fatalf("lab: %s: the lab's own name server does that, not CoreDNS", what)
	}
}

// ServeDNS answers one query.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	s.queries.Add(1)
	answer := s.answer(query)
	if lie := s.lie.Load(); lie != nil {
		if answer = (*lie)(query, answer); answer == nil {
			return
		}
	}
	if w.LocalAddr().Network() == "udp" { // what does not fit is asked for again by TCP
		size := dns.MinMsgSize
		if opt := query.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
		answer.Truncate(size)
	}
	_ = w.WriteMsg(answer) // who asked asks again
}

// answer gives names that do not exist NXDOMAIN with the zone's SOA, and missing types an empty answer with it.
func (s *nameServer) answer(query *dns.Msg) *dns.Msg {
	answer := new(dns.Msg).SetReply(query)
	answer.Authoritative = true
	q := query.Question[0]
	name := strings.ToLower(q.Name)
	exists := false
	if q.Qtype == dns.TypePTR {
		for _, target := range s.reverse(name) {
			exists = true
			answer.Answer = append(answer.Answer, &dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: target})
		}
	} else {
		owner := q.Name
		if target := s.aliasOf(name); target != "" {
			exists = true
			answer.Answer = append(answer.Answer, &dns.CNAME{Hdr: header(q.Name, dns.TypeCNAME), Target: target})
			owner, name = target, target
		}
		for _, ip := range s.forward(name) {
			exists = true
			if only := int(s.only.Load()); only != 0 && only != family(ip) {
				continue
			}
			if q.Qtype == dns.TypeA && ip.Is4() {
				answer.Answer = append(answer.Answer, &dns.A{Hdr: header(owner, dns.TypeA), A: ip.AsSlice()})
			}
			if q.Qtype == dns.TypeAAAA && ip.Is6() {
				answer.Answer = append(answer.Answer, &dns.AAAA{Hdr: header(owner, dns.TypeAAAA), AAAA: ip.AsSlice()})
			}
		}
	}
	if !exists {
		answer.Rcode = dns.RcodeNameError
	}
	if len(answer.Answer) == 0 {
		answer.Ns = []dns.RR{soa(clusterDomain, 5)}
	}
	return answer
}

func soa(zone string, minimum uint32) *dns.SOA {
	return &dns.SOA{
		Hdr: header(zone, dns.TypeSOA), Ns: "ns.dns." + clusterDomain, Mbox: "hostmaster." + clusterDomain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: minimum,
	}
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: 5}
}

// aliasOf is where an ExternalName Service leads, or "".
func (s *nameServer) aliasOf(name string) string {
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	for _, service := range s.lab.services {
		if service.alias() && name == serviceHost(service) {
			return dns.Fqdn(service.Spec.ExternalName)
		}
	}
	return ""
}

// forward finds the addresses behind a name; a Service without endpoints does not exist, as with CoreDNS when it is
// headless.
func (s *nameServer) forward(name string) []netip.Addr {
	var ips []netip.Addr
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	for _, service := range s.lab.services {
		host := serviceHost(service)
		if name == host && len(service.ips) > 0 {
			return service.ips
		}
		for _, e := range s.lab.published(service) {
			for _, ip := range e.ips() {
				if (name == host && service.headless()) || name == endpointHost(e, ip, service) {
					ips = append(ips, ip)
				}
			}
		}
	}
	return ips
}

// reverse finds the names of an address: the Service's for a clusterIP, else one per Service that the pod is an
// endpoint of.
func (s *nameServer) reverse(question string) []string {
	var names []string
	is := func(ip netip.Addr) bool {
		arpa, err := dns.ReverseAddr(ip.String())
		return err == nil && arpa == question
	}
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	for _, service := range s.lab.services {
		for _, ip := range service.ips {
			if is(ip) {
				return []string{serviceHost(service)}
			}
		}
		for _, e := range s.lab.published(service) {
			for _, ip := range e.ips() {
				if is(ip) {
					names = append(names, endpointHost(e, ip, service))
				}
			}
		}
	}
	return names
}

func serviceHost(s *serviceState) string { return s.Name + "." + s.Namespace + ".svc." + clusterDomain }

// endpointHost is the endpoint's host name where it has one under this Service, else its address with dashes.
func endpointHost(e Endpoint, ip netip.Addr, s *serviceState) string {
	label := strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
	return cmp.Or(e.hostname, label) + "." + serviceHost(s)
}
