package destination

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/netset"
)

// Waits for DNS about addresses that no cluster gives out.
const (
	remoteWait    = 300 * time.Millisecond // of a connection
	remoteTimeout = 2 * time.Second        // of the query, which goes on behind the connection
	remoteTTL     = time.Minute            // of an answer that names nothing, and of none
	maxRemote     = 64                     // queries at once; beyond them nobody waits
)

// prefixes reads networks that are written here.
func prefixes(texts ...string) (list netset.Prefixes) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

var (
	// special are the ranges of special purpose (RFC 6890 and IANA's registries) that clusters use for pods and
	// Services: private and shared ones, documentation, benchmarks, 240.0.0.0/4. Nothing on the Internet has such an
	// address.
	special = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "fc00::/7", "fec0::/10", "2001:2::/48", "2001:db8::/32", "3fff::/20", "5f00::/16", "64:ff9b:1::/48", "100::/64")
	// never are those that Kubernetes takes neither for a Service nor for an endpoint (ValidateNonSpecialIP): nobody is
	// asked about them.
	never = prefixes("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::/127", "fe80::/10", "ff00::/8")
)

// serviceNetwork is the largest network of Services that can hold addr. Kubernetes takes none of more than 20 bits of
// IPv4, or of 64 bits of IPv6. Public networks of Services are small (GKE's has 12 bits), and addresses of the Internet
// are beside them.
func serviceNetwork(addr netip.Addr) netip.Prefix {
	switch {
	case addr.Is6():
		return around(addr, 64)
	case special.Contains(addr):
		return around(addr, 12)
	}
	return around(addr, 16)
}

// podNetwork is a network of pods around addr, or more: clusters give each node a part of a /14 or less (GKE and
// OpenShift of a /14, most others of a /16), and of a /48 (EKS: of the VPC's /56).
func podNetwork(addr netip.Addr) netip.Prefix {
	if addr.Is6() {
		return around(addr, 48)
	}
	return around(addr, 14)
}

func around(addr netip.Addr, bits int) netip.Prefix {
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.PrefixFrom(addr, addr.BitLen())
	}
	return p
}

// SystemAddresses are the addresses of this machine's interfaces, but for loopback ones.
func SystemAddresses() []netip.Addr {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		given, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range given {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !never.Contains(p.Addr()) {
				addrs = append(addrs, plain(p.Addr()))
			}
		}
	}
	return addrs
}

// ownAddresses are the pod's; the system is asked at most once a minute.
func (r *Resolver) ownAddresses() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); r.ownAsked.IsZero() || now.Sub(r.ownAsked) >= time.Minute || now.Before(r.ownAsked) {
		r.own, r.ownAsked = r.askOwn(), now
	}
	return r.own
}

// serviceAddresses are those from which the network of the cluster's Services is learnt: name servers, and what DNS
// says of the Service that every cluster has.
func (r *Resolver) serviceAddresses() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Concat(r.servers, r.apiServer)
}

// learn keeps what a scan has found: where Services of the mesh have public addresses, others may have them as well.
// The caller holds Resolver.mu.
func (r *Resolver) learn(s *scan) {
	if found := s.answers[probeService]; len(found) > 0 {
		r.keepAPIServer(found)
	}
	for addr := range s.services {
		if special.Contains(addr) || len(r.learnt) >= maxNames {
			continue
		}
		if p := podNetwork(addr); !slices.Contains(r.learnt, p) {
			r.learnt = append(r.learnt, p)
		}
	}
}

// keepAPIServer keeps addresses of the Service that every cluster has. The caller holds Resolver.mu.
func (r *Resolver) keepAPIServer(found []netip.Addr) {
	for _, addr := range found {
		if !slices.Contains(r.apiServer, addr) && len(r.apiServer) < maxNames {
			r.apiServer = append(r.apiServer, addr)
		}
	}
}

// inServiceNetwork tells whether addr is in the network of the cluster's Services, as far as that is known.
func (r *Resolver) inServiceNetwork(addr netip.Addr) bool {
	return slices.ContainsFunc(r.serviceAddresses(), func(a netip.Addr) bool { return serviceNetwork(a).Contains(addr) })
}

// inPodNetwork tells whether addr is in the network of this pod.
func (r *Resolver) inPodNetwork(addr netip.Addr) bool {
	return slices.ContainsFunc(r.ownAddresses(), func(a netip.Addr) bool { return podNetwork(a).Contains(addr) })
}

// near tells whether the cluster can have given out addr, by what is known now.
func (r *Resolver) near(q question) bool {
	if special.Contains(q.addr) || netset.Prefixes(q.m.mesh.Outbound.ClusterCIDRs).Contains(q.addr) || r.inServiceNetwork(q.addr) {
		return true
	}
	if r.inPodNetwork(q.addr) {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return netset.Prefixes(r.learnt).Contains(q.addr)
}

// nearAfterAsking is near for a public address: before the network of Services is known, DNS is asked for it.
func (r *Resolver) nearAfterAsking(ctx context.Context, q question) bool {
	if r.near(q) {
		return true
	}
	f := r.ask(ctx, q, dns.Question{Name: probeService + ".svc." + q.domain, Qtype: recordType(q.addr)}, holds{good: graceTime, bad: negTTL}, Lookup{Err: errNoAnswerYet})
	if f.err != nil || len(f.addrs) == 0 {
		return false
	}
	r.mu.Lock()
	r.keepAPIServer(f.addrs)
	r.mu.Unlock()
	return r.near(q)
}

var errTooManyRemote = errors.New("too many addresses are being looked up")
