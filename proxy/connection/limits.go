package connection

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/proxy/reason"
)

// Limits are what both directions share. Make them with NewLimits.
type Limits struct {
	budget.Budget
	pool    *budget.Pool
	holders *holders
}

// NewLimits makes the limits of a budget.
func NewLimits(b budget.Budget) *Limits {
	return &Limits{b, budget.NewPool(b), &holders{all: map[string]*holder{}, now: time.Now}}
}

// orDefault are the limits of a container with the memory of the shipped one.
func (l *Limits) orDefault() *Limits {
	if l != nil {
		return l
	}
	return NewLimits(budget.For(budget.Resources{}))
}

// The app is one holder, and so are those who do not say who they are.
const (
	theApp       = "this pod's app"
	theStrangers = "connections without mutual TLS"
)

// holders knows who holds connections that carry data: identities, and addresses. Shares count only when others want
// places: then who holds most gives up what is idle for longest.
type holders struct {
	now func() time.Time

	mu       sync.Mutex
	all      map[string]*holder
	yielding int // sessions that were told to end, and have not
}

type holder struct {
	name string
	held map[*held]struct{}
}

// held is a connection of one or more holders.
type held struct {
	session  session
	by       []*holder
	yielding bool
}

// session is a *relay.Session, but in tests.
type session interface {
	Abort(error)
	IdleSince() time.Time
}

func (h *holders) add(s session, names ...string) *held {
	c := &held{session: s}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range names {
		by := h.all[name]
		if by == nil {
			by = &holder{name: name, held: map[*held]struct{}{}}
			h.all[name] = by
		}
		by.held[c] = struct{}{}
		c.by = append(c.by, by)
	}
	return c
}

func (h *holders) remove(c *held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, by := range c.by {
		if delete(by.held, c); len(by.held) == 0 {
			delete(h.all, by.name)
		}
	}
	if c.yielding {
		h.yielding--
	}
}

// count is how many connections somebody holds.
func (h *holders) count(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if by := h.all[name]; by != nil {
		return len(by.held)
	}
	return 0
}

// yield ends connections of who holds most, for somebody who holds so few: a small part at a time, and no more until
// these have ended. Somebody who holds half as many himself gets none that way. Exhausted: the system has no room left,
// and only what is idle for a while is given up.
func (h *holders) yield(few int, exhausted bool) (who string, n int) {
	const (
		part, atMost = 64, 64
		idleFor      = 10 * time.Second
	)
	h.mu.Lock()
	var most *holder
	for _, by := range h.all {
		if most == nil || len(by.held) > len(most.held) {
			most = by
		}
	}
	if h.yielding > 0 || most == nil || len(most.held) < 2*(few+1) {
		h.mu.Unlock()
		return "", 0
	}
	idle := make([]idleOne, 0, len(most.held))
	for c := range most.held {
		idle = append(idle, idleOne{c, c.session.IdleSince()})
	}
	n = min(max(1, len(idle)/part), atMost)
	slices.SortFunc(idle, func(a, b idleOne) int { return cmp.Compare(a.since.UnixNano(), b.since.UnixNano()) })
	idle = idle[:n]
	if exhausted {
		idle = slices.DeleteFunc(idle, func(i idleOne) bool { return h.now().Sub(i.since) < idleFor })
	}
	for _, i := range idle {
		i.yielding = true
	}
	h.yielding = len(idle)
	who, n = most.name, len(idle)
	h.mu.Unlock()
	for _, i := range idle {
		i.session.Abort(reason.New(reason.GivenUp, fmt.Errorf("others want a place, and %s hold most; nothing moved on it since %s", who, i.since.UTC().Format(time.RFC3339))))
	}
	return who, n
}

type idleOne struct {
	*held
	since time.Time
}
