// Package destination answers which Service of the mesh, if any, is behind an address, and so who may answer there. The
// mesh map alone says which identities are right. Which Service an address belongs to is said by the clusterIPs of the
// map, by DNS, whose names are confirmed forward, or by both, which must then agree on who may answer. A clusterIP of
// the map is the claim of a manifest, and never enough for plaintext.
//
// That DNS has no name for an address is not believed by itself. The Services of the mesh are asked for their addresses
// as well (the sweep); a Service that every cluster has must be told by the same DNS, forward and backward (the
// witness); and an address that was a Service's a short while ago still is (the memory). Whatever of this does not
// answer, refuses.
//
// What remains: an attacker who controls all that DNS says can send a connection to another Service of the mesh than
// the app meant, or, with a name outside of the mesh that is consistent both ways, make an address look foreign that no
// clusterIP names. So can a DNS that knows Services backward but not pods, for pods that are not headless. Use
// outbound.unknown Deny or meshCIDRs where that matters.
package destination

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

const (
	lookupTimeout = 8 * time.Second // bounds all queries about one address together
	// claimTimeout is how long, from its start, DNS is waited for where a clusterIP of the map, meshCIDRs, a federation
	// or the memory lead to mutual TLS without it.
	claimTimeout = time.Second
)

var errNoAnswerYet = errors.New("no answer yet")

// Resolver answers with the help of DNS and a cache of its facts. Make it with New.
type Resolver struct {
	client *client
	now    func() time.Time
	count  func(result string)
	index  atomic.Pointer[Map]

	mu     sync.Mutex
	cache  map[key]*entry
	sweeps map[sweepKey]*sweep
	memory *memory
}

// Options are the surroundings of a Resolver.
type Options struct {
	Servers []netip.AddrPort // DNS servers, tried in order
	Timeout time.Duration    // of one query to one server; default 2 s
	Now     func() time.Time // default time.Now
	// Count is called once per address looked up with found, none or error, and once per sweep with sweep, sweep_error
	// (DNS did not answer for all) or sweep_denied (the witness was denied). It may be nil.
	Count func(result string)
}

// New makes a Resolver.
func New(o Options) *Resolver {
	if o.Timeout <= 0 {
		o.Timeout = 2 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Count == nil {
		o.Count = func(string) {}
	}
	return &Resolver{client: &client{servers: o.Servers, timeout: o.Timeout}, now: o.Now, count: o.Count,
		cache: map[key]*entry{}, sweeps: map[sweepKey]*sweep{}, memory: newMemory()}
}

// SystemServers reads the name servers of a resolv.conf file.
func SystemServers(path string) ([]netip.AddrPort, error) {
	c, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, err
	}
	var servers []netip.AddrPort
	for _, s := range c.Servers {
		if addr, err := netip.ParseAddr(s); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr, 53))
		}
	}
	return servers, nil
}

// Resolve answers for dst under mesh. The facts are returned too, for MapOf(mesh).Decide when the map changes.
func (r *Resolver) Resolve(ctx context.Context, mesh *meshmap.Map, dst netip.AddrPort) (Destination, Facts) {
	m := r.MapOf(mesh)
	var facts Facts
	if k := (key{plain(dst.Addr()), mesh.ClusterDomain}); private(k.addr) {
		facts = r.facts(ctx, m, k, dst)
	}
	return m.Decide(dst, facts), facts
}

// facts asks the reverse zone, then the sweep where that has no name, and the memory last.
func (r *Resolver) facts(ctx context.Context, m *Map, k key, dst netip.AddrPort) Facts {
	// Where it leads to mutual TLS anyway, no answer is waited for longer than claimTimeout.
	patience := func(unanswered Facts) func(time.Time) (context.Context, context.CancelFunc) {
		return func(began time.Time) (context.Context, context.CancelFunc) {
			if m.Decide(dst, r.recall(k, m, unanswered)).Kind == Mesh {
				return context.WithDeadline(ctx, began.Add(claimTimeout))
			}
			return context.WithCancel(ctx)
		}
	}
	e := r.lookup(k, m)
	short, cancel := patience(Facts{Err: errNoAnswerYet})(e.began)
	defer cancel()
	if err := e.wait(short); err != nil {
		return r.recall(k, m, Facts{Err: err})
	}
	facts := e.facts
	if facts.Err == nil && m.nameless(facts) && len(m.services) > 0 {
		swept := r.swept(m, k, patience(Facts{Names: facts.Names, Doubt: errNoAnswerYet}))
		facts = Facts{Names: slices.Concat(facts.Names, swept.Names), Doubt: swept.Doubt}
	}
	return r.recall(k, m, facts)
}

// MapOf is the indexed form of mesh; the newest one is kept.
func (r *Resolver) MapOf(mesh *meshmap.Map) *Map {
	if m := r.index.Load(); m != nil && m.mesh == mesh {
		return m
	}
	m := NewMap(mesh)
	r.index.Store(m)
	return m
}

var sharedRange = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598; clusters use it for pods and Services

// private tells whether clusters give such addresses to pods and Services: RFC 1918, RFC 4193 and RFC 6598. Others are
// not asked for, so that connections to the Internet do not wait for DNS.
func private(addr netip.Addr) bool { return addr.IsPrivate() || sharedRange.Contains(addr) }
