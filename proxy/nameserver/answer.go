package nameserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/loopback"
)

const (
	maxAliases = 16               // of one name, one after the other
	maxLed     = 32               // addresses of one answer that are led: a client tries few
	ledTTL     = 30 * time.Second // of an answer with loopback addresses, at most
	minSize    = dns.MinMsgSize   // of an answer by UDP to a client that says nothing (RFC 1035)
	ourSize    = 4096             // what we say that we take
)

// answer is that to a query, as it is sent; nil: none.
func (s *Server) answer(ctx context.Context, query []byte, udp bool) []byte {
	q := new(dns.Msg)
	if err := q.Unpack(query); err != nil || q.Response {
		s.o.Count(Invalid)
		if q.Response || len(query) < 12 || query[2]&0x80 != 0 {
			return nil // two servers must not answer each other without end
		}
		q = &dns.Msg{MsgHdr: dns.MsgHdr{Id: uint16(query[0])<<8 | uint16(query[1])}}
		return packed(new(dns.Msg).SetRcodeFormatError(q))
	}
	m := s.o.Map()
	if m == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	reply, result := s.reply(ctx, m, q)
	s.o.Count(result)
	reply.Id, reply.Response, reply.Opcode, reply.Question = q.Id, true, q.Opcode, q.Question
	reply.RecursionDesired, reply.RecursionAvailable, reply.CheckingDisabled = q.RecursionDesired, true, q.CheckingDisabled
	reply.Compress = true
	size := dns.MaxMsgSize
	if udp {
		size = minSize
	}
	if opt := q.IsEdns0(); opt != nil {
		reply.SetEdns0(ourSize, false)
		if udp {
			size = min(max(int(opt.UDPSize()), minSize), upstreamSize)
		}
	}
	reply.Truncate(size)
	return packed(reply)
}

func packed(m *dns.Msg) []byte {
	wire, err := m.Pack()
	if err == nil {
		return wire
	}
	m.Answer, m.Ns, m.Extra, m.Rcode = nil, nil, nil, dns.RcodeServerFailure
	if wire, err = m.Pack(); err != nil {
		return nil
	}
	return wire
}

func rcode(code int) *dns.Msg { return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: code}} }

// reply is what is said to a query, without what every answer has.
func (s *Server) reply(ctx context.Context, m *meshmap.Map, q *dns.Msg) (*dns.Msg, Result) {
	switch {
	case q.Opcode != dns.OpcodeQuery:
		return rcode(dns.RcodeNotImplemented), Invalid
	case len(q.Question) != 1:
		return rcode(dns.RcodeFormatError), Invalid
	}
	asked := q.Question[0]
	switch {
	case asked.Qclass != dns.ClassINET, asked.Qtype == dns.TypeAXFR, asked.Qtype == dns.TypeIXFR:
		return rcode(dns.RcodeRefused), Invalid
	case asked.Qtype == dns.TypeANY: // RFC 8482
		return rcode(dns.RcodeNotImplemented), Invalid
	}
	answer, err := s.forward(ctx, asked.Name, asked.Qtype)
	switch {
	case err != nil:
		s.short.add(m, asked.Name, s.o.Now())
		return rcode(dns.RcodeServerFailure), Failed
	case asked.Qtype != dns.TypeA && asked.Qtype != dns.TypeAAAA:
		return withoutAddresses(m, answer), Forwarded
	}
	reply, result, err := s.addresses(ctx, m, asked, answer)
	if err != nil {
		s.short.add(m, asked.Name, s.o.Now())
		s.o.Refuse(asked.Name, err)
		return rcode(dns.RcodeServerFailure), Refused
	}
	return reply, result
}

// withoutAddresses leaves out what else an answer says of where a name leads: a client asks for it if it needs it. The
// records of RFC 9460 hold addresses as hints, and a name of the cluster has none. Servers of a Service of the mesh are
// of that Service.
func withoutAddresses(m *meshmap.Map, answer *dns.Msg) *dns.Msg {
	domain := "." + strings.ToLower(dns.Fqdn(m.ClusterDomain))
	reply := &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: answer.Rcode}}
	for _, rr := range answer.Answer {
		switch rr.Header().Rrtype {
		case dns.TypeA, dns.TypeAAAA:
			continue
		case dns.TypeSRV:
			if srv, ok := rr.(*dns.SRV); !ok || !keeps(m, answer.Question[0].Name, srv.Target) {
				continue
			}
		case dns.TypeSVCB, dns.TypeHTTPS:
			if owner := strings.ToLower(rr.Header().Name); strings.HasSuffix(owner, domain) || strings.HasSuffix(strings.ToLower(answer.Question[0].Name), domain) {
				continue
			}
		}
		reply.Answer = append(reply.Answer, rr)
	}
	reply.Ns = authority(answer)
	return reply
}

// keeps tells whether the server of a SRV record is of the Service that was asked for, where that is of the mesh: the
// app would take any other for it.
func keeps(m *meshmap.Map, asked, target string) bool {
	of := read(m, asked)
	return of.class < unled || of.service != "" && read(m, target).service == of.service
}

// authority is how long it holds that there is nothing (RFC 2308).
func authority(answer *dns.Msg) []dns.RR {
	return slices.DeleteFunc(slices.Clone(answer.Ns), func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeSOA })
}

// path is how an answer leads from the name that was asked for to addresses. Records of other names are no part of it:
// some clients take every address of an answer.
type path struct {
	names   []string // the name, and what each is an alias of
	aliases []dns.RR
	records []dns.RR // of addresses, of the last name
	rcode   int
	ns      []dns.RR
}

func follow(asked dns.Question, answer *dns.Msg) (path, error) {
	p := path{names: []string{asked.Name}, rcode: answer.Rcode, ns: authority(answer)}
	for at := asked.Name; ; {
		i := slices.IndexFunc(answer.Answer, func(rr dns.RR) bool {
			return rr.Header().Rrtype == dns.TypeCNAME && strings.EqualFold(rr.Header().Name, at)
		})
		if i < 0 {
			break
		}
		alias, ok := answer.Answer[i].(*dns.CNAME)
		if !ok || len(p.aliases) == maxAliases {
			return path{}, errors.New("its name servers lead in a circle")
		}
		p.aliases, p.names = append(p.aliases, alias), append(p.names, alias.Target)
		at = alias.Target
	}
	for _, rr := range answer.Answer {
		if rr.Header().Rrtype == asked.Qtype && strings.EqualFold(rr.Header().Name, p.last()) && addressOf(rr).IsValid() {
			p.records = append(p.records, rr)
		}
	}
	return p, nil
}

func (p path) last() string { return p.names[len(p.names)-1] }

func addressOf(rr dns.RR) netip.Addr {
	var ip net.IP
	switch rr := rr.(type) {
	case *dns.A:
		ip = rr.A
	case *dns.AAAA:
		ip = rr.AAAA
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

// asItIs is what the name servers say, and nothing beside it.
func (p path) asItIs() *dns.Msg {
	reply := rcode(p.rcode)
	reply.Answer, reply.Ns = slices.Concat(p.aliases, p.records), p.ns
	return reply
}

// errNoPorts is the way out for a name of the mesh of which the map has no ports.
var errNoPorts = errors.New("it is a name of the mesh, and nobody says on which ports it is dialed: name them in spec.redirect.services, or put the manifest of its Service into the package; " +
	"if it leads out of the mesh, name the Service in outbound.plaintextServices")

// addresses answers a query for addresses. The first name on the way that is a Service's of the mesh decides where the
// app gets to: what it is an alias of is DNS's word alone.
func (s *Server) addresses(ctx context.Context, m *meshmap.Map, asked dns.Question, answer *dns.Msg) (*dns.Msg, Result, error) {
	p, err := follow(asked, answer)
	if err != nil {
		return nil, Refused, err
	}
	var last name
	for _, fqdn := range p.names {
		if last = read(m, fqdn); last.class == led {
			return s.lead(ctx, m, asked, p, last)
		}
	}
	if len(p.records) == 0 {
		return p.asItIs(), Forwarded, nil
	}
	if last.class == unled { // before it, it is an alias
		return nil, Refused, errNoPorts
	}
	for _, fqdn := range p.names {
		n := read(m, fqdn)
		if n.class != elsewhere {
			continue
		}
		in, err := s.inMesh(ctx, m, n.service, asked.Qtype)
		if err == nil && !in && fqdn == p.last() && m.SharedCA {
			p.records = p.records[:min(len(p.records), maxLed)] // no more than are asked for
			in, err = s.members(ctx, m, p.records)
		}
		switch {
		case err != nil:
			return nil, Refused, err
		case in:
			return nil, Refused, errNoPorts
		}
	}
	if read(m, asked.Name).class == foreign && s.short.begins(asked.Name, s.o.Now()) {
		return nil, Refused, errSearched
	}
	return p.asItIs(), Forwarded, nil
}

// lead answers for a Service of the mesh. Loopback addresses are of IPv4. A pod that has no other IPv4 address gets
// them in the form of IPv6 (RFC 4291, section 2.5.5.2), which the system connects as IPv4.
func (s *Server) lead(ctx context.Context, m *meshmap.Map, asked dns.Question, p path, n name) (*dns.Msg, Result, error) {
	mapped := asked.Qtype == dns.TypeAAAA
	switch {
	case p.rcode != dns.RcodeSuccess:
		p.records = nil // some clients take an address beside a denial
		return p.asItIs(), Forwarded, nil
	case mapped && s.o.HasIPv4():
		p.records = nil
		return p.asItIs(), Led, nil
	}
	if len(p.records) == 0 {
		other, err := s.otherFamily(ctx, asked)
		if err != nil {
			return nil, Refused, err
		}
		p.records = other.records
	}
	if len(p.records) == 0 {
		return p.asItIs(), Forwarded, nil
	}
	targets := make([]loopback.Target, 0, maxLed)
	for _, rr := range p.records[:min(len(p.records), maxLed)] {
		target := loopback.Target{Service: n.service, Addr: addressOf(rr), Endpoint: n.endpoint}
		if !slices.Contains(targets, target) {
			targets = append(targets, target)
		}
	}
	addrs, err := s.o.Lead(targets, m.ServicePorts[n.service])
	if err != nil {
		return nil, Refused, wayOut(err)
	}
	reply := rcode(dns.RcodeSuccess)
	for _, rr := range p.aliases {
		short := dns.Copy(rr)
		short.Header().Ttl = ttl(rr)
		reply.Answer = append(reply.Answer, short)
	}
	for _, addr := range addrs {
		reply.Answer = append(reply.Answer, record(p.last(), addr, mapped, ttl(p.records[0])))
	}
	return reply, Led, nil
}

// otherFamily asks for the addresses of the family that was not asked for: the Service may have those alone.
func (s *Server) otherFamily(ctx context.Context, asked dns.Question) (path, error) {
	other := asked
	if other.Qtype = dns.TypeA; asked.Qtype == dns.TypeA {
		other.Qtype = dns.TypeAAAA
	}
	answer, err := s.forward(ctx, other.Name, other.Qtype)
	if err != nil {
		return path{}, err
	}
	return follow(other, answer)
}

func ttl(rr dns.RR) uint32 { return min(rr.Header().Ttl, uint32(ledTTL/time.Second)) }

func record(name string, addr netip.Addr, mapped bool, ttl uint32) dns.RR {
	header := dns.RR_Header{Name: name, Class: dns.ClassINET, Rrtype: dns.TypeA, Ttl: ttl}
	if !mapped {
		return &dns.A{Hdr: header, A: addr.AsSlice()}
	}
	header.Rrtype = dns.TypeAAAA
	in6 := addr.As16()
	return &dns.AAAA{Hdr: header, AAAA: in6[:]}
}

// wayOut completes the error of Lead.
func wayOut(err error) error {
	var taken *loopback.TakenError
	if errors.As(err, &taken) {
		return fmt.Errorf("%w: it listens on all addresses, and so on those by which Services are reached; let it listen on the pod's address (or 127.0.0.1) alone, or give the Service another port", err)
	}
	return err
}
