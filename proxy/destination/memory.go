package destination

import (
	"container/list"
	"slices"
	"time"
)

// Bounds of the memory.
const (
	memoryTime = 10 * time.Minute // longer than a pod takes to end, or a rollout to move on
	maxMemory  = 16384            // addresses; those confirmed longest ago go first
)

// memory holds which addresses DNS has confirmed as those of Services of the mesh. A pod that leaves its Service, since
// it ends or is not ready, loses its names while clients still dial it: it must not turn foreign by that. The caller
// holds Resolver.mu.
type memory struct {
	order *list.List // of *recollection, the newest in front
	items map[key]*list.Element
}

type recollection struct {
	key     key
	names   []Name   // of Services of the mesh
	foreign []string // Services outside of the mesh that the address had beside them
	until   time.Time
}

func newMemory() *memory { return &memory{order: list.New(), items: map[key]*list.Element{}} }

func (m *memory) get(k key, now time.Time) *recollection {
	item := m.items[k]
	if item == nil {
		return nil
	}
	r := item.Value.(*recollection)
	if !now.Before(r.until) {
		m.drop(k)
		return nil
	}
	return r
}

func (m *memory) put(r *recollection) {
	m.drop(r.key)
	m.items[r.key] = m.order.PushFront(r)
	if m.order.Len() > maxMemory {
		m.drop(m.order.Back().Value.(*recollection).key)
	}
}

func (m *memory) drop(k key) {
	if item := m.items[k]; item != nil {
		m.order.Remove(item)
		delete(m.items, k)
	}
}

// recall holds facts against the memory. Names of the mesh are kept in it; a Service outside of the mesh that the
// address did not have beside them ends it, since the address is then somebody else's; and where DNS names nothing, it
// adds what DNS said earlier.
func (r *Resolver) recall(k key, m *Map, facts Facts) Facts {
	var names []Name
	var foreign []string
	for _, name := range facts.Names {
		switch {
		case !name.Confirmed:
		case m.service(name.Service) == nil:
			foreign = append(foreign, name.Service)
		default:
			name.Remembered = true
			names = append(names, name)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	past := r.memory.get(k, now)
	switch {
	case len(names) > 0:
		r.memory.put(&recollection{key: k, names: names, foreign: foreign, until: now.Add(memoryTime)})
	case past == nil:
	case slices.ContainsFunc(foreign, func(s string) bool { return !slices.Contains(past.foreign, s) }):
		r.memory.drop(k)
	default:
		facts.Names = slices.Concat(facts.Names, past.names)
	}
	return facts
}
