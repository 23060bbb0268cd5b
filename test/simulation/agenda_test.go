package simulation

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"testing"
	"time"
)

const day = 24 * time.Hour

// event is something that happens at a time. Events of one time happen in the order in which they were planned.
type event struct {
	at   time.Time
	seq  int
	what string // for the trace
	do   func()
}

type agenda []event

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at.Before(a[j].at) || a[i].at.Equal(a[j].at) && a[i].seq < a[j].seq
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(event)) }
func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

// simulation is one run: a clock, what is planned, Git, the fleet, and what was found.
type simulation struct {
	t       testing.TB
	profile profile
	mutant  mutant
	rng     *rand.Rand
	now     time.Time
	end     time.Time
	agenda  agenda
	planned int
	trace   uint64 // digest of what happened when; keys have no part in it, since they are random whatever the seed

	git    git
	fleet  fleet
	matrix matrix
	record record
}

func newSimulation(t testing.TB, p profile, m mutant, seed uint64) *simulation {
	t.Helper()
	s := &simulation{t: t, profile: p, mutant: m, rng: rand.New(rand.NewPCG(seed, 0x6d657368)), now: start}
	s.end = start.Add(time.Duration(p.days) * day)
	s.record = newRecord()
	s.matrix = newMatrix(s)
	s.git = newGit(t, p)
	s.fleet = newFleet(s)
	s.plan()
	return s
}

// after plans an event.
func (s *simulation) after(delay time.Duration, what string, do func()) {
	s.planned++
	heap.Push(&s.agenda, event{s.now.Add(delay), s.planned, what, do})
}

// every plans an event again and again, with exponentially distributed pauses of the given mean and never less than an
// hour.
func (s *simulation) every(mean time.Duration, what string, do func()) {
	if mean == 0 {
		return
	}
	s.after(time.Hour+time.Duration(s.rng.ExpFloat64()*float64(mean)), what, func() {
		do()
		s.every(mean, what, do)
	})
}

// run lets time pass.
func (s *simulation) run() {
	for len(s.agenda) > 0 {
		e := heap.Pop(&s.agenda).(event)
		if e.at.After(s.end) {
			break
		}
		s.now = e.at
		s.record.events++
		s.note(e.what)
		e.do()
	}
	s.now = s.end
	s.matrix.tick()
}

// note mixes what happens into the trace.
func (s *simulation) note(what string) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%x %d %s %d %d", s.trace, s.now.UnixNano(), what, len(s.matrix.leaves), len(s.matrix.trusts))
	s.trace = h.Sum64()
}

// between draws a duration.
func (s *simulation) between(low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(s.rng.Int64N(int64(high-low)))
}
