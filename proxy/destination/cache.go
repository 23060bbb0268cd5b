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
	remote  bool      // asked for as an address that no cluster gives out
}

// fresh tells whether the entry still holds under m, for an address that is remote or not.
func (e *entry) fresh(now time.Time, m *Map, remote bool) bool {
	if e.remote && !remote {
		return false
	}
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
func (r *Resolver) reverse(ctx context.Context, q question, remote bool) Lookup {
	r.mu.Lock()
	if e := r.cache[q.key]; e != nil && e.fresh(r.now(), q.m, remote) {
		r.mu.Unlock()
		return e.lookup
	}
	name := "reverse " + q.addr.String() + " " + q.domain
	if remote {
		if _, asked := r.began["remote "+name]; !asked && r.remotes >= maxRemote {
			r.mu.Unlock()
			return Lookup{Err: errTooManyRemote}
		} else if !asked {
			r.remotes++
		}
		name = "remote " + name
	}
	f := join(r, name, func() *entry { return r.query(context.WithoutCancel(ctx), q.key, remote) }, func(e *entry) {
		makeRoom(r.cache, r.now(), func(e *entry) time.Time { return e.expires })
		r.cache[q.key] = e
		if remote {
			r.remotes--
		}
	})
	r.mu.Unlock()
	result, err := r.await(ctx, q, f, Lookup{Err: errNoAnswerYet, Remote: remote})
	if err != nil {
		return Lookup{Err: err}
	}
	return result.(*entry).lookup
}

// makeRoom removes what has expired, and if nothing has, any entry: a cache is a convenience, its bound is not.
func makeRoom[K comparable, E any](cache map[K]E, now time.Time, expires func(E) time.Time) {
	if len(cache) < maxEntries {
		return
	}
	var last K
	for k, e := range cache {
		if last = k; !now.Before(expires(e)) {
			delete(cache, k)
		}
	}
	if len(cache) >= maxEntries {
		delete(cache, last)
	}
}

func (r *Resolver) query(ctx context.Context, k key, remote bool) *entry {
	timeout := lookupTimeout
	if remote {
		timeout = remoteTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	names, ttl, err := r.client.names(ctx, k.addr, k.domain)
	e := &entry{lookup: Lookup{Names: names, Err: err}, remote: remote}
	r.count(resultOf(remote, len(names), err))
	if err != nil {
		ttl = minTTL
	}
	now := r.now()
	if remote && len(names) == 0 {
		e.expires, e.foreign = now.Add(remoteTTL), now.Add(remoteTTL)
		return e
	}
	ttl = min(max(ttl, minTTL), maxTTL)
	e.expires, e.foreign = now.Add(ttl), now.Add(min(ttl, negTTL))
	return e
}

func resultOf(remote bool, names int, err error) Result {
	switch {
	case remote && err != nil:
		return RemoteFailed
	case remote:
		return RemoteLookup
	case err != nil:
		return LookupFailed
	case names == 0:
		return NotFound
	}
	return Found
}
