// Package destination tells who of the mesh, if anybody, is behind an address, and so who may answer there. The
// clusterIPs of the map and DNS say which Services an address belongs to, and whether it is a pod of the mesh; a name
// in DNS counts once its own address records confirm it. The mesh map says which identities may answer for a Service;
// the certificate of who answers says for which Services of its namespace it may. Where several names are found, who
// answers must be acceptable to all that the map knows. A clusterIP of the map is the claim of a manifest: it is never
// enough for plaintext.
//
// DNS is not believed at once when it has no name for an address. The forward scan asks for the addresses of all
// Services of the map and of all pods of the package. The known-good probe asks the same DNS for a Service that every
// cluster has, forward and backward. The self-probe asks for the name of the own pod: where DNS names no pods, mutual
// TLS is tried first. The grace cache keeps an address that was of the mesh a short while ago. A connection is refused
// while one of them has no answer.
//
// Addresses are not classes: every address is asked for. Where the cluster's networks are is learnt. Away from them, on
// the Internet, an answer is waited for only shortly, and none means outside the mesh.
//
// What remains: an attacker who controls all answers of DNS can send a connection to another Service of the mesh than
// the app meant. With a name outside of the mesh that is consistent both ways, he can make an address look foreign that
// no clusterIP names. Use outbound.unknown Deny or meshCIDRs where that matters.
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
	RemoteLookup   Result = "remote"       // of an address that no cluster gives out, whatever was found
	RemoteFailed   Result = "remote_error" // of such an address: its owner's DNS may be at fault
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

	askOwn  func() []netip.Addr
	servers []netip.Addr // that are asked

	mu        sync.Mutex
	flights   singleflight.Group   // lookups and scans under way
	began     map[string]time.Time // when each of flights did
	cache     map[key]*entry
	facts     map[factKey]*fact
	scans     map[scanKey]*scan // the last of each
	grace     *graceCache
	remotes   int            // lookups under way of addresses that no cluster gives out
	own       []netip.Addr   // as askOwn told last
	ownAsked  time.Time      // when it did
	apiServer []netip.Addr   // of the Service that every cluster has, as DNS said at times
	learnt    []netip.Prefix // public networks with Services and pods of the mesh
}

// Options are the surroundings of a Resolver.
type Options struct {
	Servers []netip.AddrPort // DNS servers, tried in order
	Timeout time.Duration    // of one query to one server; default 2 s
	Now     func() time.Time // default time.Now
	Count   func(Result)     // called once per lookup and once per scan; may be nil
	// the pod's own addresses, for the self-probe; may be nil
	Own func() []netip.Addr
}

// New makes a Resolver.
func New(o Options) *Resolver {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Count == nil {
		o.Count = func(Result) {}
	}
	if o.Own == nil {
		o.Own = func() []netip.Addr { return nil }
	}
	r := &Resolver{client: &client{servers: o.Servers, timeout: cmp.Or(o.Timeout, 2*time.Second)}, now: o.Now, count: o.Count, askOwn: o.Own,
		began: map[string]time.Time{}, cache: map[key]*entry{}, facts: map[factKey]*fact{}, scans: map[scanKey]*scan{}, grace: newGraceCache()}
	for _, server := range o.Servers {
		if addr := plain(server.Addr()); !never.Contains(addr) { // a cache on the node is in no network of the cluster's
			r.servers = append(r.servers, addr)
		}
	}
	return r
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
	l := Lookup{Remote: true}
	if !never.Contains(q.addr) {
		l = r.lookup(ctx, q)
	}
	return q.m.Decide(dst, l), l
}

// lookup asks the reverse zone, then all that may know an address without a name, and the grace cache last.
func (r *Resolver) lookup(ctx context.Context, q question) Lookup {
	near := r.near(q)
	if !near {
		short, cancel := context.WithTimeout(ctx, remoteWait)
		defer cancel()
		if near = r.nearAfterAsking(short, q); !near {
			ctx = short
		}
	}
	l := r.reverse(ctx, q, !near)
	l = r.withAliases(ctx, q, l)
	l = r.withNamespaces(ctx, q, l)
	switch {
	case l.Err != nil || !q.m.nameless(l):
	case !near:
		l.Names = slices.Concat(l.Names, r.scanned(q))
	default:
		l = r.nameless(ctx, q, l)
	}
	if near && l.Err == nil && q.m.headlessElsewhere(l) && !r.podsHaveNames(ctx, q) {
		l.Doubt = "DNS does not name the pods of the mesh"
	}
	l = r.withGrace(q, l)
	l.Remote, l.NameServer = !near, slices.Contains(r.servers, q.addr)
	return l
}

// nameless asks further about an address that has no name.
func (r *Resolver) nameless(ctx context.Context, q question, l Lookup) Lookup {
	l = r.asMember(ctx, q, l)
	if len(q.m.services) > 0 {
		scanned := r.scan(ctx, q, l)
		l = Lookup{Names: slices.Concat(l.Names, scanned.Names), Uncertain: cmp.Or(l.Uncertain, scanned.Uncertain)}
	}
	if q.m.nameless(l) && l.Uncertain == nil {
		l.Doubt = r.doubt(ctx, q)
	}
	return l
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
