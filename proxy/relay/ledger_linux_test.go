package relay

import (
	"slices"
	"testing"
)

// TestVictims: who holds most beyond what it moves ends first, and of its sessions the largest. Who moves what it holds
// ends last, however much that is.
func TestVictims(t *testing.T) {
	l := newLedger(Limits{Buffered: 1 << 40, Queued: 1 << 40})
	names := map[*Session]string{}
	add := func(name, owner string, held, stuck int64) {
		s, e := New(nil, nil, Options{Owner: owner}), new(entry)
		names[s] = name
		l.add(s, e)
		l.set(e, buffers, held, stuck)
		l.set(e, queues, 1, 1)
	}
	add("bad, small", "bad", 10, 10)
	add("bad, large", "bad", 50, 50)
	add("bad, middle", "bad", 25, 25)
	add("slow", "slow", 40, 40)
	add("busy", "busy", 60, 0)
	add("idle", "idle", 0, 0)
	if got := l.total[buffers].Load(); got != 10+50+25+40+60 {
		t.Fatalf("the sessions hold %d", got)
	}
	for excess, want := range map[int64][]string{
		1:   {"bad, large"},
		51:  {"bad, large", "slow"}, // the others of bad hold 35
		91:  {"bad, large", "slow", "bad, middle"},
		117: {"bad, large", "slow", "bad, middle", "bad, small"},
		126: {"bad, large", "slow", "bad, middle", "bad, small", "busy"},
		999: {"bad, large", "slow", "bad, middle", "bad, small", "busy"},
	} {
		var got []string
		for _, v := range l.victims(buffers, excess) {
			got = append(got, names[v.session])
		}
		if !slices.Equal(got, want) {
			t.Errorf("to free %d: %q, want %q", excess, got, want)
		}
	}
	for s := range names {
		l.remove(s)
		l.remove(s)
	}
	for k := range kinds {
		if got := l.total[k].Load(); got != 0 {
			t.Errorf("%d of kind %d are held by nobody", got, k)
		}
	}
}
