package listen

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// clock of the tests: no test waits.
var start = time.Unix(1_000_000, 0)

func key(name string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(name), 0)
}

// arrive lets n connections of a source wait.
func arrive(t *turns, name string, n int, now time.Time) (all []*waiting) {
	for range n {
		c := new(Conn)
		c.waiting = waiting{conn: c, source: t.of(key(name)), since: now}
		t.add(&c.waiting, now)
		all = append(all, &c.waiting)
	}
	return all
}

// serveAll serves whoever has a turn, each to its end at once, and returns the order of the sources.
func serveAll(t *turns, now time.Time) (order []string) {
	for {
		w := t.next(now, false)
		if w == nil {
			return order
		}
		order = append(order, w.source.key.Addr().String())
		t.release(w)
		t.settle(w.source, now)
	}
}

// TestSourcesTakeTurns: one that has many waits between each two of its own for everybody else.
func TestSourcesTakeTurns(t *testing.T) {
	turns := newTurns(4)
	arrive(turns, "10.0.0.1", 1000, start)
	arrive(turns, "10.0.0.2", 2, start)
	arrive(turns, "10.0.0.3", 1, start)
	order := serveAll(turns, start)
	if len(order) != 1003 {
		t.Fatalf("%d were served", len(order))
	}
	if got := fmt.Sprint(order[:6]); got != "[10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.1 10.0.0.2 10.0.0.1]" {
		t.Errorf("the order begins with %s", got)
	}
	if len(turns.sources) != 0 || turns.ready != 0 || turns.serving != 0 {
		t.Errorf("left: %d sources, %d ready, %d served", len(turns.sources), turns.ready, turns.serving)
	}
}

// TestStalledLeaveSlots: sources whose connections never end, from however many addresses, leave slots to one that is
// proved, and among themselves to each that comes new.
func TestStalledLeaveSlots(t *testing.T) {
	const slots = 64
	turns := newTurns(slots)
	stalled := 0
	for i := range 500 {
		arrive(turns, fmt.Sprintf("10.1.%d.%d", i/250, i%250), 20, start)
		for turns.next(start, false) != nil {
			stalled++
		}
	}
	if stalled != slots*3/4 {
		t.Errorf("strangers hold %d of %d slots", stalled, slots)
	}
	turns.of(key("10.2.0.1")).proved = start
	arrive(turns, "10.2.0.1", 300, start)
	proved := 0
	for _, from := range serveAll(turns, start) {
		if from == "10.2.0.1" {
			proved++
		}
	}
	if proved != 300 {
		t.Errorf("%d of 300 of a proved source were served", proved)
	}
	one := newTurns(slots)
	arrive(one, "10.1.0.1", 1000, start)
	held := 0
	for one.next(start, false) != nil {
		held++
	}
	if held != slots/2 {
		t.Errorf("a source that is alone and stalls holds %d of %d slots", held, slots)
	}
	arrive(one, "10.1.0.2", 1, start)
	if w := one.next(start, false); w == nil || w.source.key != key("10.1.0.2") {
		t.Error("the other source has no turn")
	}
}

// TestStandings: proved sources come first, and those that failed are never left out.
func TestStandings(t *testing.T) {
	turns := newTurns(8)
	turns.of(key("10.0.0.1")).proved = start
	turns.of(key("10.0.0.3")).failed = start
	for _, from := range []string{"10.0.0.3", "10.0.0.2", "10.0.0.1"} {
		arrive(turns, from, 80, start)
	}
	first := map[string]int{}
	for _, from := range serveAll(turns, start)[:80] {
		first[from]++
	}
	if first["10.0.0.1"] != 60 || first["10.0.0.2"] != 10 || first["10.0.0.3"] != 10 {
		t.Errorf("of the first 80 turns: %v", first)
	}
	// the source behind which there is a member, too, counts as the member
	both := turns.of(key("10.0.0.4"))
	both.proved, both.failed = start, start.Add(time.Second)
	if both.standing(start.Add(2*time.Second)) != Proved {
		t.Error("a stranger behind the same address takes the standing of a member away")
	}
	if got := both.standing(start.Add(provedFor)); got != Unknown {
		t.Errorf("standing is %d for ever", got)
	}
}

// TestFullPark: the source with most makes room, those that failed before others.
func TestFullPark(t *testing.T) {
	turns := newTurns(1)
	turns.of(key("10.0.0.1")).proved = start
	turns.of(key("10.0.0.3")).failed = start
	arrive(turns, "10.0.0.1", 50, start)
	arrive(turns, "10.0.0.2", 90, start)
	arrive(turns, "10.0.0.3", 3, start)
	for _, want := range []string{"10.0.0.3", "10.0.0.3", "10.0.0.3", "10.0.0.2"} {
		most := turns.fullest(start)
		if most.key != key(want) {
			t.Fatalf("%s makes room, want %s", most.key, want)
		}
		turns.remove(most.newest())
	}
	fresh, proved := turns.of(key("10.0.0.9")), turns.of(key("10.0.0.1"))
	if most := turns.fullest(start); !turns.yields(most, fresh, start) || turns.yields(most, most, start) || turns.yields(proved, fresh, start) {
		t.Error("who makes room for whom")
	}
	arrive(turns, "10.0.0.1", 50, start) // half of all now
	if !turns.yields(proved, fresh, start) {
		t.Error("a source that is proved fills the park for itself")
	}
}

// TestScarcePlaces: while places are scarce, who holds least is next.
func TestScarcePlaces(t *testing.T) {
	turns := newTurns(64)
	turns.of(key("10.0.0.1")).held = 1000
	turns.of(key("10.0.0.2")).held = 10
	arrive(turns, "10.0.0.1", 5, start)
	arrive(turns, "10.0.0.2", 5, start)
	turns.of(key("10.0.0.3")).failed = start
	arrive(turns, "10.0.0.3", 5, start)
	if got := turns.least(start); got != 10 {
		t.Errorf("least is %d", got)
	}
	for range 5 {
		w := turns.next(start, true)
		if w == nil || w.source.key != key("10.0.0.2") {
			t.Fatal("a place goes to who holds most")
		}
		turns.known(w)
	}
}

// TestRememberedSources: what is remembered of sources is bounded, and many that fail do not displace those that are
// proved.
func TestRememberedSources(t *testing.T) {
	turns := newTurns(1)
	proved := turns.of(key("10.0.0.1"))
	proved.proved = start
	turns.settle(proved, start)
	for i := range 5 * maxRemembered {
		s := turns.of(key(fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&255, i&255)))
		s.failed = start
		turns.settle(s, start)
	}
	if len(turns.sources) > maxRemembered+1 || turns.idle > maxRemembered {
		t.Errorf("%d sources are remembered", len(turns.sources))
	}
	if turns.sources[key("10.0.0.1")] == nil {
		t.Error("the proved one is forgotten")
	}
}

// TestStallerHidesNobody: behind a source that may have no more slots, sources come and go. The queue does not keep
// those that are gone, and one that was proved meanwhile counts as that.
func TestStallerHidesNobody(t *testing.T) {
	turns := newTurns(8)
	arrive(turns, "10.0.0.1", 100, start)
	for turns.next(start, false) != nil {
	}
	for i := range 5000 {
		w := arrive(turns, fmt.Sprintf("10.1.%d.%d", i/250, i%250), 1, start)[0]
		if turns.next(start, false) != w {
			t.Fatalf("connection %d has no turn", i)
		}
		turns.release(w)
		turns.settle(w.source, start)
	}
	if n := len(turns.queues[Unknown]); n > 100 {
		t.Errorf("the queue has %d sources, of which one waits", n)
	}
	w := arrive(turns, "10.2.0.1", 1, start)[0]
	turns.proves(w.source, start)
	if served := turns.next(start, false); served != w || w.conn.standing != Proved {
		t.Error("a source that was proved while it waited still counts as unknown")
	}
}

// TestProvedStallersLeaveSlots: a few sources that came through before, and now stall with all that they may hold,
// leave slots to each that holds none. Outbound, these are destinations of an app of which one is hung.
func TestProvedStallersLeaveSlots(t *testing.T) {
	turns := newTurns(64)
	for i := range 12 {
		from := fmt.Sprintf("10.1.0.%d", i)
		turns.proves(turns.of(key(from)), start)
		arrive(turns, from, 100, start)
		for turns.next(start, false) != nil {
		}
	}
	honest := arrive(turns, "10.2.0.1", 1, start)[0]
	for range 2 * provedTurns { // whoever has a turn before it
		if turns.next(start, false) == honest {
			return
		}
	}
	t.Errorf("%d of %d slots are held, and a new source has no turn", turns.serving, turns.slots)
}
