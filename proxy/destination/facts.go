package destination

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// fact is the answer to one question about a name, kept for all connections.
type fact struct {
	exists  bool
	addrs   []netip.Addr // of A and AAAA records; maxNames at most
	names   []Name       // of PTR records; maxNames at most
	err     error
	expires time.Time
}

type factKey struct {
	name string
	kind uint16
}

// holds is how long an answer is kept at most, and for good answers at least minTTL.
type holds struct{ good, bad time.Duration }

// ask is the answer to a question, from the cache or by one query that all callers share. unanswered is what is known
// without it.
func (r *Resolver) ask(ctx context.Context, q question, about dns.Question, h holds, unanswered Lookup) *fact {
	k := factKey{about.Name, about.Qtype}
	r.mu.Lock()
	if f := r.facts[k]; f != nil && r.now().Before(f.expires) {
		r.mu.Unlock()
		return f
	}
	flight := join(r, "fact "+dns.TypeToString[k.kind]+" "+k.name, func() *fact { return r.askNow(context.WithoutCancel(ctx), k, q.domain, h) }, func(f *fact) {
		makeRoom(r.facts, r.now(), func(f *fact) time.Time { return f.expires })
		r.facts[k] = f
	})
	r.mu.Unlock()
	result, err := r.await(ctx, q, flight, unanswered)
	if err != nil {
		return &fact{err: err}
	}
	return result.(*fact)
}

func (r *Resolver) askNow(ctx context.Context, k factKey, domain string, h holds) *fact {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	answer, err := r.client.query(ctx, k.name, k.kind)
	f := &fact{err: err}
	ttl := minTTL
	if err == nil {
		f.exists = slices.ContainsFunc(answer.Answer, func(rr dns.RR) bool { return strings.EqualFold(rr.Header().Name, dns.Fqdn(k.name)) })
		ttl = negativeTTL(answer)
		if f.exists {
			ttl = h.good
			addrs, _ := addressesIn(answer, k.name)
			f.addrs = addrs[:min(len(addrs), maxNames)]
		}
		found := pointers(answer, domain)
		for _, p := range found[:min(len(found), maxNames)] {
			f.names = append(f.names, p.name)
		}
	}
	if !f.exists {
		ttl = min(ttl, h.bad)
	}
	f.expires = r.now().Add(max(ttl, minTTL))
	return f
}

// withAliases asks, where several packages share an authority, whether a Service that our own package does not have
// says by an alias that it is in the mesh. Nothing is asked where other names lead to mutual TLS, or out of the mesh,
// already.
func (r *Resolver) withAliases(ctx context.Context, q question, l Lookup) Lookup {
	if !q.m.mesh.SharedCA || l.Err != nil || slices.ContainsFunc(l.Names, func(n Name) bool { return n.Confirmed && q.m.classOf(n) >= excepted && q.m.classOf(n) != unproved }) {
		return l
	}
	l.Names = slices.Clone(l.Names) // the cache has them as well
	for i, n := range l.Names {
		if !n.Confirmed {
			continue
		}
		// in the family of the address: an alias is answered in the families of its Service
		f := r.ask(ctx, q, dns.Question{Name: aliasOf(n.Service) + ".svc." + q.domain, Qtype: recordType(q.addr)}, holds{good: maxTTL, bad: negTTL}, Lookup{Names: l.Names, Err: errNoAnswerYet})
		if f.err != nil {
			return Lookup{Names: l.Names, Err: fmt.Errorf("whether %s is in the mesh: %w", n.Service, f.err)}
		}
		l.Names[i].Alias = f.exists
	}
	return l
}

// withNamespaces asks whether the namespace of a Service that nothing else tells of is one that our own package got
// after the map was rendered: its members Service is there then.
func (r *Resolver) withNamespaces(ctx context.Context, q question, l Lookup) Lookup {
	if q.m.members == "" || l.Err != nil || slices.ContainsFunc(l.Names, func(n Name) bool { return q.m.classOf(n) >= excepted }) {
		return l
	}
	members, _, _ := strings.Cut(q.m.members, ".")
	l.Names = slices.Clone(l.Names) // the cache has them as well
	for i, n := range l.Names {
		if !n.Confirmed {
			continue
		}
		_, namespace, _ := strings.Cut(n.Service, ".")
		name := members + "." + namespace + ".svc." + q.domain
		f := r.ask(ctx, q, dns.Question{Name: name, Qtype: recordType(q.addr)}, holds{good: maxTTL, bad: negTTL}, Lookup{Names: l.Names, Err: errNoAnswerYet})
		if f.err != nil {
			return Lookup{Names: l.Names, Err: fmt.Errorf("whether %s is in the mesh: %w", n.Service, f.err)}
		}
		l.Names[i].Ours = f.exists
	}
	return l
}

// asMember asks whether an address without a name is a pod of our own namespace, by the name that an endpoint of the
// members Service has. Some versions of CoreDNS (1.12.0) answer these and give the address no name.
func (r *Resolver) asMember(ctx context.Context, q question, l Lookup) Lookup {
	if q.m.members == "" {
		return l
	}
	name := dashed(q.addr) + "." + q.m.members + ".svc." + q.domain
	f := r.ask(ctx, q, dns.Question{Name: name, Qtype: recordType(q.addr)}, holds{good: maxTTL, bad: negTTL}, Lookup{Names: l.Names, Uncertain: errNoAnswerYet})
	switch {
	case f.err != nil:
		l.Uncertain = fmt.Errorf("%s has no name, and whether it is a pod of the mesh is not answered: %w", q.addr, f.err)
	case slices.Contains(f.addrs, q.addr):
		l.Names = append(slices.Clone(l.Names), Name{Service: q.m.members, Endpoint: true, Confirmed: true})
	}
	return l
}

// podsHaveNames is the self-probe: whether DNS names the pods of the mesh, as it does where an address of the pod's own
// has the name of its members Service. A pod that DNS does not know yet is asked for again soon.
func (r *Resolver) podsHaveNames(ctx context.Context, q question) bool {
	own := slices.DeleteFunc(slices.Clone(r.ownAddresses()), func(a netip.Addr) bool { return recordType(a) != recordType(q.addr) })
	if q.m.members == "" || len(own) == 0 {
		return true // nothing to judge by
	}
	return slices.ContainsFunc(own[:min(len(own), maxOwn)], func(a netip.Addr) bool { return r.hasMembersName(ctx, q, a) })
}

// maxOwn bounds the queries of a self-probe: pods with more networks have their first addresses in the cluster's.
const maxOwn = 3

func (r *Resolver) hasMembersName(ctx context.Context, q question, own netip.Addr) bool {
	arpa, err := dns.ReverseAddr(own.String())
	if err != nil {
		return false
	}
	f := r.ask(ctx, q, dns.Question{Name: arpa, Qtype: dns.TypePTR}, holds{good: negTTL, bad: negTTL}, Lookup{})
	return f.err == nil && slices.ContainsFunc(f.names, func(n Name) bool { return n.Service == q.m.members })
}

// doubt is why an address to which nothing gives a name may be in the mesh all the same; empty if it may not. A pod
// that was just started has no name for a moment.
func (r *Resolver) doubt(ctx context.Context, q question) string {
	switch {
	case r.inServiceNetwork(q.addr):
		return "it is in the network of the cluster's Services"
	case r.inPodNetwork(q.addr):
		return "it is in the network of this pod, and DNS may not know yet of a pod that was just started"
	case !r.podsHaveNames(ctx, q):
		return "DNS does not name the pods of the mesh"
	}
	return ""
}

// dashed is the label that CoreDNS gives to the endpoint with this address, if the pod has no host name of its own.
func dashed(addr netip.Addr) string {
	label := strings.NewReplacer(".", "-", ":", "-").Replace(addr.String())
	if strings.HasSuffix(label, "-") {
		label += "0"
	}
	return label
}
