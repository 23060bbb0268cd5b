// Package resolve answers which Service of the mesh, if any, is behind an address, and so who may answer there. The mesh map alone
// says which identities are right. Which Service an address belongs to is said by the clusterIPs of the map, by DNS, whose names are
// confirmed forward, or by both, which must then agree on who may answer. A clusterIP of the map is the claim of a manifest, and
// never enough for plaintext. An attacker who controls DNS can at most send a connection to another Service of the mesh than the app
// meant, or make an address that no clusterIP names look foreign: use outbound.unknown Deny or meshCIDRs where that matters.
package resolve

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/contract"
)

// Bounds of the cache.
const (
	minTTL     = time.Second
	maxTTL     = time.Minute
	negTTL     = 5 * time.Second // the longest that an address stays foreign: a pod of the mesh may get it next
	maxEntries = 4096
)

const (
	lookupTimeout = 8 * time.Second // bounds all queries about one address together
	// claimTimeout is how long, from its start, a lookup is waited for where a clusterIP of the map alone leads to mutual TLS.
	claimTimeout = time.Second
)

var errNoAnswerYet = errors.New("no answer yet")

// Resolver answers with the help of DNS and a cache of its facts. Make it with New.
type Resolver struct {
	client *client
	now    func() time.Time
	count  func(result string)
	index  atomic.Pointer[Map]

	mu    sync.Mutex
	cache map[key]*entry
}

type key struct {
	addr   netip.Addr
	domain string
}

// entry is filled once ready is closed.
type entry struct {
	began   time.Time // by the real clock
	ready   chan struct{}
	facts   Facts
	expires time.Time
}

// Options are the surroundings of a Resolver.
type Options struct {
	Servers []netip.AddrPort    // DNS servers, tried in order
	Timeout time.Duration       // of one query to one server; default 2 s
	Now     func() time.Time    // default time.Now
	Count   func(result string) // called once per lookup with found, none or error; may be nil
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
	return &Resolver{client: &client{servers: o.Servers, timeout: o.Timeout}, now: o.Now, count: o.Count, cache: map[key]*entry{}}
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
func (r *Resolver) Resolve(ctx context.Context, mesh *contract.Mesh, dst netip.AddrPort) (Destination, Facts) {
	m := r.MapOf(mesh)
	addr := plain(dst.Addr())
	var facts Facts
	if private(addr) {
		e := r.lookup(key{addr, mesh.ClusterDomain})
		if m.Decide(dst, Facts{Err: errNoAnswerYet}).Kind == Mesh {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, e.began.Add(claimTimeout))
			defer cancel()
		}
		facts = e.wait(ctx)
	}
	return m.Decide(dst, facts), facts
}

// MapOf is the indexed form of mesh; the newest one is kept.
func (r *Resolver) MapOf(mesh *contract.Mesh) *Map {
	if m := r.index.Load(); m != nil && m.mesh == mesh {
		return m
	}
	m := NewMap(mesh)
	r.index.Store(m)
	return m
}

var sharedRange = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598; clusters use it for pods and Services

// private tells whether clusters give such addresses to pods and Services: RFC 1918, RFC 4193 and RFC 6598. Others are not asked
// for, so that connections to the Internet do not wait for DNS.
func private(addr netip.Addr) bool { return addr.IsPrivate() || sharedRange.Contains(addr) }

// lookup returns what the cache has about an address, or begins one lookup that all callers share.
func (r *Resolver) lookup(k key) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.cache[k]
	if e == nil || (e.done() && !r.now().Before(e.expires)) {
		e = &entry{began: time.Now(), ready: make(chan struct{})}
		r.makeRoom()
		r.cache[k] = e
		go r.fill(k, e) // bound to no caller, since others may wait for it; bound to lookupTimeout
	}
	return e
}

// wait returns the facts, but does not wait for them longer than ctx.
func (e *entry) wait(ctx context.Context) Facts {
	if e.done() { // even where ctx has ended
		return e.facts
	}
	select {
	case <-e.ready:
		return e.facts
	case <-ctx.Done():
		return Facts{Err: ctx.Err()}
	}
}

func (e *entry) done() bool {
	select {
	case <-e.ready:
		return true
	default:
		return false
	}
}

// makeRoom removes what has expired, and if nothing has, any finished entry: the cache is a convenience, its bound is not.
func (r *Resolver) makeRoom() {
	if len(r.cache) < maxEntries {
		return
	}
	now := r.now()
	var any key
	found := false
	for k, e := range r.cache {
		if !e.done() {
			continue
		}
		if any, found = k, true; !now.Before(e.expires) {
			delete(r.cache, k)
		}
	}
	if found && len(r.cache) >= maxEntries {
		delete(r.cache, any)
	}
}

func (r *Resolver) fill(k key, e *entry) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	names, ttl, err := r.client.names(ctx, k.addr, k.domain)
	switch {
	case err != nil:
		r.count("error")
		e.facts, ttl = Facts{Err: err}, minTTL
	case len(names) == 0:
		r.count("none")
		ttl = min(ttl, negTTL)
	default:
		r.count("found")
		e.facts = Facts{Names: names}
	}
	e.expires = r.now().Add(min(max(ttl, minTTL), maxTTL))
	close(e.ready)
}

// parseName reads <service>.<namespace>.svc.<domain>, a Service's clusterIP, and <endpoint>.<service>.<namespace>.svc.<domain>, a
// pod behind it (Kubernetes DNS specification, sections 2.3 and 2.4).
func parseName(fqdn, domain string) (Name, bool) {
	name, ok := strings.CutSuffix(strings.ToLower(fqdn), ".svc."+strings.ToLower(domain)+".")
	if !ok {
		return Name{}, false
	}
	labels := strings.Split(name, ".")
	switch len(labels) {
	case 2:
		return Name{Service: name}, true
	case 3:
		return Name{Service: labels[1] + "." + labels[2], Endpoint: true}, true
	}
	return Name{}, false
}
