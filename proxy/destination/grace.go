package destination

import (
	"container/list"
	"slices"
	"time"
)

// Bounds of the grace cache.
const (
	graceTime = 10 * time.Minute // longer than a pod takes to end, or a rollout to move on
	maxGrace  = 16384            // addresses; those confirmed longest ago go first
)

// graceCache holds which addresses DNS has confirmed as those of Services of the mesh. A pod that leaves its Service,
// since it ends or is not ready, loses its names while clients still dial it: it must not turn foreign by that. The
// caller holds Resolver.mu.
type graceCache struct {
	order *list.List // of *graceEntry, the newest in front
	items map[key]*list.Element
}

type graceEntry struct {
	key     key
	names   []Name   // of the mesh
	foreign []string // Services outside of the mesh that the address had beside them
	until   time.Time
}

func newGraceCache() *graceCache {
	return &graceCache{order: list.New(), items: map[key]*list.Element{}}
}

func (c *graceCache) get(k key, now time.Time) *graceEntry {
	item := c.items[k]
	if item == nil {
		return nil
	}
	e := item.Value.(*graceEntry)
	if !now.Before(e.until) {
		c.drop(k)
		return nil
	}
	return e
}

func (c *graceCache) put(e *graceEntry) {
	c.drop(e.key)
	c.items[e.key] = c.order.PushFront(e)
	if c.order.Len() > maxGrace {
		c.drop(c.order.Back().Value.(*graceEntry).key)
	}
}

func (c *graceCache) drop(k key) {
	if item := c.items[k]; item != nil {
		c.order.Remove(item)
		delete(c.items, k)
	}
}

// withGrace completes a lookup by what DNS said earlier. Names of the mesh are kept for graceTime. They are added where
// DNS names nothing now. A Service outside of the mesh that the address did not have beside them ends that, since the
// address is then somebody else's; but not while DNS does not answer whether the Service has an alias.
func (r *Resolver) withGrace(q question, l Lookup) Lookup {
	var names []Name
	var foreign []string
	for _, name := range l.Names {
		switch {
		case !name.Confirmed:
		case q.m.classOf(name) < named:
			foreign = append(foreign, name.Service)
		default:
			name.Remembered = true
			names = append(names, name)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	past := r.grace.get(q.key, now)
	switch {
	case len(names) > 0:
		r.grace.put(&graceEntry{key: q.key, names: names, foreign: foreign, until: now.Add(graceTime)})
	case past == nil:
	case l.Err == nil && slices.ContainsFunc(foreign, func(s string) bool { return !slices.Contains(past.foreign, s) }):
		r.grace.drop(q.key)
	default:
		l.Names = slices.Concat(l.Names, past.names)
	}
	return l
}
