package relay

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// kind is a kind of memory that sessions hold.
type kind int

const (
	buffers kind = iota // ours
	queues              // the kernel's, of sockets, beyond what a session has moved lately
	kinds
)

// ledger knows how much memory the sessions of an engine hold, and ends some where it is too much.
type ledger struct {
	limit [kinds]int64
	total [kinds]atomic.Int64

	mu       sync.Mutex
	sessions map[*Session]*entry
}

// entry is a session in the ledger.
type entry struct {
	held  [kinds]atomic.Int64 // in total
	stuck [kinds]atomic.Int64 // of it, beyond what was passed on lately
	noted [kinds]int64        // held, as the loop has last said
	plain bool                // goroutines move the bytes
	seen  [2]int64            // of such a session: bytes that had moved in each direction at the last look
}

func newLedger(l Limits) *ledger {
	return &ledger{limit: [kinds]int64{l.Buffered, l.Queued}, sessions: map[*Session]*entry{}}
}

// tight tells that memory of a kind is short. Then no session takes more of it than it needs to go on.
func (l *ledger) tight(k kind) bool { return l.total[k].Load() > l.limit[k]/2 }

func (l *ledger) add(s *Session, e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[s] = e
}

// remove takes a session out, and what it held. It may be called often.
func (l *ledger) remove(s *Session) {
	l.mu.Lock()
	e := l.sessions[s]
	delete(l.sessions, s)
	l.mu.Unlock()
	if e != nil {
		l.clear(e)
	}
}

// clear takes what a session holds out of the totals.
func (l *ledger) clear(e *entry) {
	for k := range kinds {
		l.total[k].Add(-e.held[k].Swap(0))
	}
}

// set says how much of a kind a session holds now, and how much of that it has not passed on lately. Only its loop
// calls it.
func (l *ledger) set(e *entry, k kind, held, stuck int64) {
	if stuck != e.stuck[k].Load() {
		e.stuck[k].Store(stuck)
	}
	if held == e.noted[k] {
		return
	}
	e.noted[k] = held
	more := held - e.held[k].Swap(held)
	if l.total[k].Add(more) > l.limit[k] && more > 0 {
		l.relieve(k)
	}
}

// relieve ends sessions until an eighth of the limit is free: a search through all of them has to be rare.
func (l *ledger) relieve(k kind) {
	if !l.mu.TryLock() {
		return // another loop does it
	}
	victims := l.victims(k, l.total[k].Load()-(l.limit[k]-l.limit[k]/8))
	l.mu.Unlock()
	for _, v := range victims {
		l.clear(v.entry) // it has no turn any more but its last
		v.session.Abort(ErrMemory)
	}
}

// owner is whose sessions share a sum.
type owner struct {
	holders []holder // the one that is to end first is the last
	held    int64
	stuck   int64
	sorted  bool
}

// holder is a session, what it holds, and how much of that it does not move.
type holder struct {
	session     *Session
	entry       *entry
	held, stuck int64
}

// victims chooses sessions that hold so much of a kind together. Each is one of the owner whose sessions hold most that
// does not move, and there the one that does so most; of two alike, the one that moved last longer ago. Its caller
// holds the lock.
func (l *ledger) victims(k kind, excess int64) (victims []holder) {
	owners := l.owners(k)
	for excess > 0 && len(owners) > 0 {
		worst := slices.MaxFunc(owners, func(a, b *owner) int { return cmp.Or(cmp.Compare(a.stuck, b.stuck), cmp.Compare(a.held, b.held)) })
		if !worst.sorted {
			worst.sorted = true
			slices.SortFunc(worst.holders, func(a, b holder) int {
				return cmp.Or(cmp.Compare(a.stuck, b.stuck), cmp.Compare(a.held, b.held), b.session.counted().Compare(a.session.counted()))
			})
		}
		last := worst.holders[len(worst.holders)-1]
		victims = append(victims, last)
		excess -= last.held
		worst.stuck -= last.stuck
		worst.held -= last.held
		if worst.holders = worst.holders[:len(worst.holders)-1]; len(worst.holders) == 0 {
			owners = slices.DeleteFunc(owners, func(o *owner) bool { return o == worst })
		}
	}
	return victims
}

func (l *ledger) owners(k kind) []*owner {
	byName := map[string]*owner{}
	var owners []*owner
	for s, e := range l.sessions {
		held := e.held[k].Load()
		if held == 0 || s.aborted.Load() {
			continue
		}
		name := s.options.Owner
		o := byName[name]
		if o == nil {
			o = new(owner)
			byName[name], owners = o, append(owners, o)
		}
		h := holder{s, e, held, e.stuck[k].Load()}
		o.holders = append(o.holders, h)
		o.held += h.held
		o.stuck += h.stuck
	}
	return owners
}
