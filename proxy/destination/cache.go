package destination

import (
	"context"
	"net/netip"
	"time"
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

// pending is something under way that several callers wait for.
type pending struct {
	began time.Time // by the real clock
	ready chan struct{}
}

func newPending() pending { return pending{began: time.Now(), ready: make(chan struct{})} }

func (p *pending) done() bool {
	select {
	case <-p.ready:
		return true
	default:
		return false
	}
}

// wait waits until it is done, but not longer than ctx.
func (p *pending) wait(ctx context.Context) error {
	if p.done() { // even where ctx has ended
		return nil
	}
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// entry is what the reverse zone says about one address. It is filled once ready is closed.
type entry struct {
	pending
	facts   Facts
	expires time.Time
	foreign time.Time // when it expires as one of an address outside of the mesh
}

// fresh tells whether the entry still holds under m.
func (e *entry) fresh(now time.Time, m *Map) bool {
	if !m.knows(e.facts) {
		return now.Before(e.foreign)
	}
	return now.Before(e.expires)
}

// lookup returns what the cache has about an address, or begins one lookup that all callers share.
func (r *Resolver) lookup(k key, m *Map) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.cache[k]
	if e == nil || (e.done() && !e.fresh(r.now(), m)) {
		e = &entry{pending: newPending()}
		r.makeRoom()
		r.cache[k] = e
		go r.fill(k, e) // bound to no caller, since others may wait for it; bound to lookupTimeout
	}
	return e
}

// makeRoom removes what has expired, and if nothing has, any finished entry: the cache is a convenience, its bound is
// not.
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
	default:
		r.count("found")
		e.facts = Facts{Names: names}
	}
	ttl = min(max(ttl, minTTL), maxTTL)
	now := r.now()
	e.expires, e.foreign = now.Add(ttl), now.Add(min(ttl, negTTL))
	close(e.ready)
}
