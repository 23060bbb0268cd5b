package relay

import (
	"time"

	"github.com/meshless-dev/meshless/proxy/epoll"
)

// loop is an event loop, and the sessions that it looks at now and then: those that move or hold memory. It looks at
// each once in an interval, and at a part of them at a time, since the others wait meanwhile.
type loop struct {
	*epoll.Loop
	ledger   *ledger
	interval time.Duration
	patience int // looks for which a record may be incomplete
	lingers  *lingers

	watched   []*pair
	next      int // of them
	left      int // of them, to look at in this interval
	part      int // of the interval
	lingering []*lingerer
	ticking   bool
}

// parts is how many parts an interval has.
const parts = 8

// watch is what a loop remembers of a session that it looks at.
type watch struct {
	on     bool
	looks  int
	seen   [2]int64 // bytes that each half had passed on at the last look
	moving [2]int64 // bytes that it has passed on lately
	queued [2]int64 // of the kernel's memory, for each half
}

// halves are both directions, in the order of watch.
func (p *pair) halves() [2]*half { return [2]*half{&p.toServer, &p.toClient} }

// account says what the session holds, and that it is to be looked at. What one direction moves excuses nothing of the
// other: who sends much would keep answers for free.
func (p *pair) account() {
	var held, stuck, queued int64
	for i, h := range p.halves() {
		n := h.held()
		held += n
		stuck += max(0, n-p.watch.moving[i])
		queued += max(0, p.watch.queued[i]-p.watch.moving[i])
	}
	p.loop.ledger.set(&p.entry, buffers, held, stuck)
	p.loop.ledger.set(&p.entry, queues, queued, queued)
	if !p.watch.on {
		p.watch.on = true
		p.loop.watched = append(p.loop.watched, p)
		p.loop.tickSoon()
	}
}

func (l *loop) tickSoon() {
	if !l.ticking {
		l.ticking = true
		l.Alarm(l.interval/parts, l.tick)
	}
}

// tick looks at one part of the watched sessions.
func (l *loop) tick() {
	if l.part = (l.part + 1) % parts; l.part == 0 {
		l.left = len(l.watched)
	}
	for range min(l.left, (len(l.watched)+parts-1)/parts) {
		l.left--
		if l.next >= len(l.watched) {
			l.next = 0
		}
		p := l.watched[l.next]
		if p.look() {
			l.next++
			continue
		}
		p.watch.on = false
		last := len(l.watched) - 1
		l.watched[l.next], l.watched[last] = l.watched[last], nil
		if l.watched = l.watched[:last]; last == 0 {
			break
		}
	}
	l.endLingers()
	if l.ticking = false; len(l.watched)+len(l.lingering) > 0 {
		l.tickSoon()
	} else {
		l.watched, l.next, l.left = nil, 0, 0
	}
}

// rarely is how many looks pass before the kernel is asked about a session that moves.
const rarely = 4

// look tells whether there is anything to look at next time. It ends a session that waits for the rest of a record.
func (p *pair) look() (again bool) {
	if p.ended.Load() || p.session.aborted.Load() {
		return false
	}
	w, moved := &p.watch, int64(0)
	for i, h := range p.halves() {
		n := h.total - w.seen[i]
		w.seen[i] = h.total
		w.moving[i] = w.moving[i]*3/4 + n // of the last four seconds or so
		moved += n
	}
	for _, h := range p.halves() {
		if moved == 0 {
			h.compact()
		}
		if !h.waiting() {
			continue
		}
		if h.waits++; h.waits > p.loop.patience {
			p.failBy(h, ErrStuckRecord)
			return false
		}
	}
	if w.looks++; moved == 0 || w.looks%rarely == 0 {
		fromClient, toClient := queued(p.client.FD)
		fromServer, toServer := queued(p.server.FD)
		w.queued = [2]int64{fromClient + toServer, fromServer + toClient}
	}
	p.account()
	return moved > 0 || p.entry.noted[buffers] > 0 || w.queued[0]+w.queued[1] > 0
}
