package destination

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sync/singleflight"
)

// Bounds of the cache.
const (
	minTTL     = time.Second
	maxTTL     = time.Minute
	negTTL     = 5 * time.Second // the longest that an address stays foreign: a pod of the mesh may get it next
	maxEntries = 4096
)

type key struct {
	addr   netip.Addr
	domain string
}

// entry is what the reverse zone says about one address.
type entry struct {
	lookup  Lookup
	expires time.Time
	foreign time.Time // when it expires as one of an address outside of the mesh
}

// fresh tells whether the entry still holds under m.
func (e *entry) fresh(now time.Time, m *Map) bool {
	if !m.knows(e.lookup) {
		return now.Before(e.foreign)
	}
	return now.Before(e.expires)
}

// flight is work under way whose result several callers wait for.
type flight struct {
	began time.Time // by the real clock
	done  <-chan singleflight.Result
}

// join joins the work of this name that is under way, or begins it, and keeps its result. The work is bound to no
// caller, since others may wait for it. The caller of join holds r.mu; keep is called with r.mu held.
func join[T any](r *Resolver, name string, work func() T, keep func(T)) flight {
	began, ok := r.began[name]
	if !ok {
		began = time.Now()
		r.began[name] = began
	}
	return flight{began, r.flights.DoChan(name, func() (any, error) {
		result := work()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.began, name)
		r.flights.Forget(name) // later callers find the kept result
		keep(result)
		return result, nil
	})}
}

// await waits for the result of f until ctx ends. Where it leads to mutual TLS to go on without an answer, the wait
// ends claimTimeout after f began at the latest.
func (r *Resolver) await(ctx context.Context, q question, f flight, unanswered Lookup) (any, error) {
	if q.m.Decide(q.dst, r.withGrace(q, unanswered)).Kind == Mesh {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, f.began.Add(claimTimeout))
		defer cancel()
	}
	select {
	case result := <-f.done:
		return result.Val, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reverse is what the reverse zone says, from the cache or by one query that all callers share.
func (r *Resolver) reverse(ctx context.Context, q question) Lookup {
	r.mu.Lock()
	if e := r.cache[q.key]; e != nil && e.fresh(r.now(), q.m) {
		r.mu.Unlock()
		return e.lookup
	}
	f := join(r, "reverse "+q.addr.String()+" "+q.domain, func() *entry { return r.query(context.WithoutCancel(ctx), q.key) }, func(e *entry) {
		r.makeRoom()
		r.cache[q.key] = e
	})
	r.mu.Unlock()
	result, err := r.await(ctx, q, f, Lookup{Err: errNoAnswerYet})
	if err != nil {
		return Lookup{Err: err}
	}
	return result.(*entry).lookup
}

// makeRoom removes what has expired, and if nothing has, any entry: the cache is a convenience, its bound is not.
func (r *Resolver) makeRoom() {
	if len(r.cache) < maxEntries {
		return
	}
	now := r.now()
	var last key
	for k, e := range r.cache {
		if last = k; !now.Before(e.expires) {
			delete(r.cache, k)
		}
	}
	if len(r.cache) >= maxEntries {
		delete(r.cache, last)
	}
}

func (r *Resolver) query(ctx context.Context, k key) *entry {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	names, ttl, err := r.client.names(ctx, k.addr, k.domain)
	e := &entry{lookup: Lookup{Names: names, Err: err}}
	switch {
	case err != nil:
		r.count(LookupFailed)
		ttl = minTTL
	case len(names) == 0:
		r.count(NotFound)
	default:
		r.count(Found)
	}
	ttl = min(max(ttl, minTTL), maxTTL)
	now := r.now()
	e.expires, e.foreign = now.Add(ttl), now.Add(min(ttl, negTTL))
	return e
}
