// Package destination tells which Service of the mesh, if any, is behind an address, and so who may answer there. Only
// the mesh map says which identities are right. The clusterIPs of the map and DNS say which Service an address belongs
// to; a name in DNS counts once its own address records confirm it. Where both find Services, they must agree on who
// may answer. A clusterIP of the map is the claim of a manifest: it is never enough for plaintext.
//
// DNS is not believed at once when it has no name for an address. The forward scan asks for the addresses of all
// Services of the mesh. The known-good probe asks the same DNS for a Service that every cluster has, forward and
// backward. The grace cache keeps an address that was a Service's a short while ago. A connection is refused while one
// of them has no answer.
//
// What remains: an attacker who controls all answers of DNS can send a connection to another Service of the mesh than
// the app meant. With a name outside of the mesh that is consistent both ways, he can make an address look foreign that
// no clusterIP names. A DNS that knows Services backward, but not pods, does the same for pods that are not headless.
// Use outbound.unknown Deny or meshCIDRs where that matters.
package destination

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

const (
	lookupTimeout = 8 * time.Second // bounds all queries about one address together
	// claimTimeout is how long, from its start, DNS is waited for where a clusterIP of the map, meshCIDRs, a federation
	// or the grace cache lead to mutual TLS without it.
	claimTimeout = time.Second
)

var errNoAnswerYet = errors.New("no answer yet")

// Result is what a lookup or a forward scan came to, as metrics count it.
type Result string

// The results of lookups, each of one address, and of forward scans, each of all Services.
const (
	Found          Result = "found"
	NotFound       Result = "not_found"
	LookupFailed   Result = "error"
	ScanComplete   Result = "scan"
	ScanIncomplete Result = "scan_error"  // DNS did not answer for all
	ScanDenied     Result = "scan_denied" // DNS denied the known-good probe
)

// Resolver answers with the help of DNS and a cache of what DNS said. Make it with New.
type Resolver struct {
	client *client
	now    func() time.Time
	count  func(Result)
	index  atomic.Pointer[Map]

	mu      sync.Mutex
	flights singleflight.Group   // lookups and scans under way
	began   map[string]time.Time // when each of flights did
	cache   map[key]*entry
	scans   map[scanKey]*scan // the last of each
	grace   *graceCache
}

// Options are the surroundings of a Resolver.
type Options struct {
	Servers []netip.AddrPort // DNS servers, tried in order
	Timeout time.Duration    // of one query to one server; default 2 s
	Now     func() time.Time // default time.Now
	Count   func(Result)     // called once per lookup and once per scan; may be nil
}

// New makes a Resolver.
func New(o Options) *Resolver {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Count == nil {
		o.Count = func(Result) {}
	}
	return &Resolver{client: &client{servers: o.Servers, timeout: cmp.Or(o.Timeout, 2*time.Second)}, now: o.Now, count: o.Count,
		began: map[string]time.Time{}, cache: map[key]*entry{}, scans: map[scanKey]*scan{}, grace: newGraceCache()}
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

// question is an address and port that a connection is for, and the map that the answer is for.
type question struct {
	key
	m   *Map
	dst netip.AddrPort
}

// Resolve answers for dst under mesh. The lookup is returned too, for MapOf(mesh).Decide when the map changes.
func (r *Resolver) Resolve(ctx context.Context, mesh *meshmap.Map, dst netip.AddrPort) (Destination, Lookup) {
	q := question{key{plain(dst.Addr()), mesh.ClusterDomain}, r.MapOf(mesh), dst}
	var l Lookup
	if private(q.addr) {
		l = r.lookup(ctx, q)
	}
	return q.m.Decide(dst, l), l
}

// lookup asks the reverse zone, then the forward scan where that has no name, and the grace cache last.
func (r *Resolver) lookup(ctx context.Context, q question) Lookup {
	l := r.reverse(ctx, q)
	if l.Err == nil && q.m.nameless(l) && len(q.m.services) > 0 {
		scanned := r.scan(ctx, q, l)
		l = Lookup{Names: slices.Concat(l.Names, scanned.Names), Uncertain: scanned.Uncertain}
	}
	return r.withGrace(q, l)
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
