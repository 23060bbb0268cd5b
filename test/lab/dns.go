//go:build linux

package lab

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"
)

const clusterDomain = "cluster.local."

// The API server's Service, which every cluster has; here it has names but no endpoints.
const kubernetesHost = "kubernetes.default.svc." + clusterDomain

var kubernetesAddrs = []netip.Addr{netip.MustParseAddr(serviceNet4 + "255"), netip.MustParseAddr(serviceNet6 + "ffff")}

// nameServer answers as CoreDNS with its kubernetes plugin does: Services, headless Services, names of endpoints, and
// the reverse of all.
type nameServer struct {
	lab     *Lab
	only    atomic.Int32 // 4 or 6: addresses of the other family are not told
	servers []*dns.Server
}

func newNameServer(l *Lab) (*nameServer, error) {
	s := &nameServer{lab: l}
	var packets net.PacketConn
	var listener net.Listener
	address := net.JoinHostPort(dnsAddr.String(), "53")
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
	s.servers = []*dns.Server{{PacketConn: packets, Handler: s}, {Listener: listener, Handler: s}}
	for _, server := range s.servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go server.ActivateAndServe() // ends with Shutdown; a failing server shows as failing look-ups
		<-started
	}
	return s, nil
}

func (s *nameServer) close() error {
	return errors.Join(s.servers[0].Shutdown(), s.servers[1].Shutdown())
}

// OnlyFamily makes the DNS server tell addresses of one family, 4 or 6; 0 is both.
func (l *Lab) OnlyFamily(family int) { l.names.only.Store(int32(family)) }

// ServeDNS answers one query. Names that do not exist get NXDOMAIN with the zone's SOA, missing types an empty answer
// with it.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	answer := new(dns.Msg).SetReply(query)
	answer.Authoritative = true
	q := query.Question[0]
	exists := false
	switch name := strings.ToLower(q.Name); {
	case q.Qtype == dns.TypePTR:
		for _, target := range s.reverse(name) {
			exists = true
			answer.Answer = append(answer.Answer, &dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: target})
		}
	default:
		for _, ip := range s.forward(name) {
			exists = true
			if only := int(s.only.Load()); only != 0 && only != family(ip) {
				continue
			}
			if q.Qtype == dns.TypeA && ip.Is4() {
				answer.Answer = append(answer.Answer, &dns.A{Hdr: header(q.Name, dns.TypeA), A: ip.AsSlice()})
			}
			if q.Qtype == dns.TypeAAAA && ip.Is6() {
				answer.Answer = append(answer.Answer, &dns.AAAA{Hdr: header(q.Name, dns.TypeAAAA), AAAA: ip.AsSlice()})
			}
		}
	}
	if !exists {
		answer.Rcode = dns.RcodeNameError
	}
	if len(answer.Answer) == 0 {
		answer.Ns = []dns.RR{&dns.SOA{
			Hdr: header(clusterDomain, dns.TypeSOA), Ns: "ns.dns." + clusterDomain, Mbox: "hostmaster." + clusterDomain,
			Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: 5,
		}}
	}
	w.WriteMsg(answer)
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: 5}
}

// forward finds the addresses behind a name; a Service without endpoints does not exist, as with CoreDNS when it is
// headless.
func (s *nameServer) forward(name string) []netip.Addr {
	var ips []netip.Addr
	if name == kubernetesHost {
		return kubernetesAddrs
	}
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	for _, service := range s.lab.services {
		host := serviceHost(service)
		if name == host && !service.headless() {
			return service.ips
		}
		for _, p := range s.lab.endpoints(service) {
			for _, ip := range []netip.Addr{p.IP4, p.IP6} {
				if (name == host && service.headless()) || name == endpointHost(p, ip, service) {
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
	if slices.ContainsFunc(kubernetesAddrs, is) {
		return []string{kubernetesHost}
	}
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	for _, service := range s.lab.services {
		for _, ip := range service.ips {
			if is(ip) {
				return []string{serviceHost(service)}
			}
		}
		for _, p := range s.lab.endpoints(service) {
			for _, ip := range []netip.Addr{p.IP4, p.IP6} {
				if is(ip) {
					names = append(names, endpointHost(p, ip, service))
				}
			}
		}
	}
	return names
}

func serviceHost(s *serviceState) string { return s.Name + "." + s.Namespace + ".svc." + clusterDomain }

// endpointHost is the pod's host name where it has one under this Service, else its address with dashes.
func endpointHost(p *Pod, ip netip.Addr, s *serviceState) string {
	label := strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
	if p.hostname != "" && p.subdomain == s.Name {
		label = p.hostname
	}
	return label + "." + serviceHost(s)
}
