package listen

import (
	"net/netip"
	"slices"
	"time"
)

// Standing is what a source has shown of late.
type Standing int

// The standings. A source is who asks: inbound an address, outbound a destination of the app.
const (
	Proved  Standing = iota // one of its connections came through: a handshake is proved, or a server answers
	Unknown                 // nothing yet
	Failed                  // none came through, and one has failed
	standings
)

const (
	provedFor = 10 * time.Minute
	failedFor = time.Minute
	// maxRemembered bounds the sources whose standing is remembered while they have no connection
	maxRemembered = 4096
	// provedTurns of as many turns plus one are for sources that are proved, while some of these wait
	provedTurns = 3
)

// waiting is a connection that waits for its turn, or is served.
type waiting struct {
	conn   *Conn
	source *source
	since  time.Time // it was accepted
	began  time.Time // it has a slot
	until  time.Time // while it is silent: when it is no longer waited for
	silent bool      // nothing has arrived of it
	at     int       // in source.silent
	watch  int32     // its number there, while it is silent
}

// source has connections that wait or are served, and a standing.
type source struct {
	key            netip.AddrPort
	ready          []*waiting // in the order of their arrival
	silent         []*waiting // in no order
	serving, held  int        // before they are known, and after it
	proved, failed time.Time
	queue          Standing // of which it is in the queue, while it has some that are ready
	queued         bool
	remembered     bool // it has no connection, and is kept for its standing
}

func (s *source) standing(now time.Time) Standing {
	switch {
	case !s.proved.IsZero() && now.Sub(s.proved) < provedFor:
		return Proved
	case !s.failed.IsZero() && now.Sub(s.failed) < failedFor:
		return Failed
	}
	return Unknown
}

func (s *source) waits() int   { return len(s.ready) + len(s.silent) }
func (s *source) unused() bool { return s.waits()+s.serving+s.held == 0 }

// turns says who is next. Sources take turns, whatever the number of their connections. It is not safe for concurrent
// use; Server has a lock around it.
type turns struct {
	slots   int // connections that may be served at once before they are known
	serving int
	served  map[*waiting]struct{}
	strange [standings]int // of these, by the standing with which they began
	ready   int
	silent  int
	sources map[netip.AddrPort]*source
	idle    int // sources that are only remembered
	queues  [standings][]*source
	turn    int
	most    *source // of which most wait, as far as it is known
}

func newTurns(slots int) *turns {
	return &turns{slots: max(1, slots), sources: map[netip.AddrPort]*source{}, served: map[*waiting]struct{}{}}
}

func (t *turns) of(key netip.AddrPort) *source {
	s := t.sources[key]
	if s == nil {
		s = &source{key: key}
		t.sources[key] = s
	}
	if s.remembered {
		s.remembered = false
		t.idle--
	}
	return s
}

// settle forgets a source that is not used any more, or remembers it for its standing.
func (t *turns) settle(s *source, now time.Time) {
	switch {
	case !s.unused() || s.remembered || t.sources[s.key] != s:
		return
	case s.standing(now) == Unknown:
		delete(t.sources, s.key)
		return
	}
	s.remembered = true
	if t.idle++; t.idle <= maxRemembered {
		return
	}
	// Go begins at any place of a map. Those that have failed go first: many of them must not displace the others.
	const looks = 16
	victim, looked := s, 0
	for _, other := range t.sources {
		if !other.remembered {
			continue
		}
		if victim = other; other.standing(now) != Proved || looked == looks {
			break
		}
		looked++
	}
	delete(t.sources, victim.key)
	t.idle--
}

// add lets a connection wait. One that is silent has its turn after speaks.
func (t *turns) add(w *waiting, now time.Time) {
	if w.silent {
		w.at = len(w.source.silent)
		w.source.silent = append(w.source.silent, w)
		t.silent++
		return
	}
	w.source.ready = append(w.source.ready, w)
	t.ready++
	t.enqueue(w.source, now)
}

// speaks makes a silent connection ready.
func (t *turns) speaks(w *waiting, now time.Time) {
	t.remove(w)
	w.silent = false
	t.add(w, now)
}

func (t *turns) enqueue(s *source, now time.Time) {
	if !s.queued {
		s.queued, s.queue = true, s.standing(now)
		t.queues[s.queue] = append(t.queues[s.queue], s)
	}
}

// remove takes a connection that waits out.
func (t *turns) remove(w *waiting) {
	if s := w.source; w.silent {
		last := len(s.silent) - 1
		s.silent[w.at] = s.silent[last]
		s.silent[w.at].at = w.at
		s.silent[last] = nil
		s.silent = s.silent[:last]
		t.silent--
		return
	}
	if i := slices.Index(w.source.ready, w); i >= 0 {
		w.source.ready = slices.Delete(w.source.ready, i, i+1)
		t.ready--
	}
}

// share is how many slots connections of a standing and those below it may hold together. Peers that stall thus leave
// places to those who came through before.
func (t *turns) share(s Standing) int {
	switch s {
	case Proved:
		return t.slots
	case Unknown:
		return max(1, t.slots*3/4)
	}
	return max(1, t.slots/4)
}

func (t *turns) open(s Standing) bool {
	held := 0
	for below := s; below < standings; below++ {
		held += t.strange[below]
	}
	return held < t.share(s) && t.serving < t.slots
}

// mayServe: a source holds fewer slots than are free. So n of them leave one part of n+1 to others, and one that is
// alone has half. A part is for sources that hold none: else a few that stall would have them all in the end.
func (t *turns) mayServe(s *source) bool {
	const part = 4
	free := t.slots - t.serving
	return s.serving == 0 || s.serving < free && free > t.slots/part
}

// next is whose turn it is, or nil. If places are scarce, it is the source that holds least; else each in its turn.
func (t *turns) next(now time.Time, scarce bool) *waiting {
	order := [standings]Standing{Proved, Unknown, Failed}
	if t.turn++; t.turn%(provedTurns+1) == 0 {
		order = [standings]Standing{Unknown, Failed, Proved}
		if t.turn%(2*(provedTurns+1)) == 0 {
			order = [standings]Standing{Failed, Unknown, Proved}
		}
	}
	for _, standing := range order {
		if !t.open(standing) {
			continue
		}
		if s := t.choose(standing, now, scarce); s != nil {
			w := s.ready[0]
			s.ready[0] = nil
			s.ready = s.ready[1:]
			t.ready--
			t.serve(w, standing, now)
			return w
		}
	}
	return nil
}

func (t *turns) serve(w *waiting, standing Standing, now time.Time) {
	w.conn.standing, w.conn.state, w.began = standing, serving, now
	t.served[w] = struct{}{}
	w.source.serving++
	t.serving++
	t.strange[standing]++
}

// choose takes a source from a queue and puts it at its end. What it passes by and does not belong there any more it
// takes out: behind a head that may not be served the queue would grow, and hide who has been proved meanwhile.
func (t *turns) choose(standing Standing, now time.Time, scarce bool) (chosen *source) {
	queue := t.queues[standing]
	kept, at, seen := queue[:0], 0, 0
	for _, s := range queue {
		if chosen != nil && !scarce {
			break
		}
		seen++
		if !t.belongs(s, standing, now) {
			continue
		}
		if t.mayServe(s) && (chosen == nil || s.held+s.serving < chosen.held+chosen.serving) {
			at, chosen = len(kept), s
		}
		kept = append(kept, s)
	}
	kept = append(kept, queue[seen:]...)
	if chosen != nil {
		kept = append(slices.Delete(kept, at, at+1), chosen)
	}
	clear(queue[len(kept):])
	t.queues[standing] = kept
	return chosen
}

// proves and fails note what a source has shown, and move it to the queue where it belongs then.
func (t *turns) proves(s *source, now time.Time) {
	s.proved = now
	t.move(s, now)
}

func (t *turns) fails(s *source, now time.Time) {
	s.failed = now
	t.move(s, now)
}

func (t *turns) move(s *source, now time.Time) {
	if !s.queued || s.queue == s.standing(now) {
		return
	}
	queue := t.queues[s.queue]
	if i := slices.Index(queue, s); i >= 0 {
		t.queues[s.queue] = slices.Delete(queue, i, i+1)
	}
	if s.queued = false; len(s.ready) > 0 {
		t.enqueue(s, now)
	}
}

// belongs tells whether a source still belongs into a queue. If not, it is taken for being in none, or is in the right
// one.
func (t *turns) belongs(s *source, standing Standing, now time.Time) bool {
	waits := len(s.ready) > 0
	if waits && s.standing(now) == standing {
		return true
	}
	if s.queued = false; waits {
		t.enqueue(s, now)
	}
	return false
}

// maxStall is how long a handshake may stall while others wait for a slot, if its source is one that failed.
const maxStall = 2 * time.Second

// hurry ends handshakes of sources that failed, if they stall and others wait: the call that waits for the peer now
// fails. Others may be honest peers that are slow. They have the time of a handshake.
func (t *turns) hurry(now time.Time) {
	if t.ready == 0 {
		return
	}
	for w := range t.served {
		if w.source.standing(now) == Failed && now.Sub(w.began) > maxStall {
			_ = w.conn.SetDeadline(now)
		}
	}
}

// known ends the time in which a connection counts as strange. It holds a place from now on.
func (t *turns) known(w *waiting) {
	t.release(w)
	w.source.held++
}

func (t *turns) release(w *waiting) {
	delete(t.served, w)
	w.source.serving--
	t.serving--
	t.strange[w.conn.standing]--
}

// fullest is the source with most that wait: of those who failed, then of those who are unknown, and last of those who
// are proved. Of very many sources it looks at some, and keeps the one that it found for the next time.
func (t *turns) fullest(now time.Time) *source {
	const looks = 256
	if t.most != nil && t.most.waits() == 0 {
		t.most = nil
	}
	looked := 0
	for _, s := range t.sources { // Go begins anywhere
		if s.waits() > 0 && (t.most == nil || s.worse(t.most, now)) {
			t.most = s
		}
		if looked++; looked == looks {
			break
		}
	}
	return t.most
}

func (s *source) worse(than *source, now time.Time) bool {
	mine, theirs := s.standing(now), than.standing(now)
	return mine > theirs || mine == theirs && s.waits() > than.waits()
}

// newest is a connection of s that gives its room away: a silent one, or else the one that has waited least.
func (s *source) newest() *waiting {
	if n := len(s.silent); n > 0 {
		return s.silent[n-1]
	}
	return s.ready[len(s.ready)-1]
}

// least is how many connections the source holds that holds fewest of those that wait for a place; -1: nobody waits for
// whom others should end. Sources that failed wait without that.
func (t *turns) least(now time.Time) int {
	least := -1
	for standing, queue := range t.queues {
		if Standing(standing) == Failed {
			continue
		}
		for _, s := range queue {
			if len(s.ready) > 0 && s.standing(now) != Failed && (least < 0 || s.held+s.serving < least) {
				least = s.held + s.serving
			}
		}
	}
	return least
}

// yields tells whether s, of which most connections wait, makes room for another source. One that is proved does so for
// one that is not if it has half of all that wait.
func (t *turns) yields(s, to *source, now time.Time) bool {
	const half = 2
	mine, theirs := s.standing(now), to.standing(now)
	return s != to && (mine > theirs || mine == theirs && s.waits() > to.waits()+1 || mine < theirs && s.waits()*half > t.ready+t.silent)
}
