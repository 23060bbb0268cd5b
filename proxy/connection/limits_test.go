package connection

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/reason"
)

// fakeSession is idle since a moment. Its end is reported by the test.
type fakeSession struct {
	idle  time.Time
	ended error
}

func (f *fakeSession) Abort(err error)      { f.ended = err }
func (f *fakeSession) IdleSince() time.Time { return f.idle }

// TestYield: who holds most gives up what is idle for longest, be it an identity at many addresses or an address of
// many identities; for somebody who holds about as many nobody does.
func TestYield(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	h := &holders{all: map[string]*holder{}, now: func() time.Time { return now }}
	var large, small []*fakeSession
	var all []*held
	for i := range 640 { // one identity, 64 addresses
		s := &fakeSession{idle: now.Add(-time.Duration(i%100) * time.Minute)}
		large = append(large, s)
		all = append(all, h.add(s, fmt.Sprintf("10.0.0.%d", i%64), "spiffe://td/large"))
	}
	for i := range 200 { // one address, many identities
		s := &fakeSession{idle: now.Add(-24 * time.Hour)}
		small = append(small, s)
		all = append(all, h.add(s, "10.0.1.1", fmt.Sprintf("spiffe://td/%d", i)))
	}
	if who, n := h.yield(320, false); n != 0 {
		t.Errorf("%s gives up %d for somebody with half as many", who, n)
	}
	who, n := h.yield(319, false)
	if who != "spiffe://td/large" || n != 10 {
		t.Errorf("%s gives up %d, want the large one, 10", who, n)
	}
	for i, s := range large {
		if ended := s.ended != nil; ended && i%100 < 98 {
			t.Errorf("one that is idle for %s is given up", now.Sub(s.idle))
		}
		if e := new(reason.Error); s.ended != nil && (!errors.As(s.ended, &e) || e.Reason != reason.GivenUp) {
			t.Errorf("it ends with %v", s.ended)
		}
	}
	for _, s := range small {
		if s.ended != nil {
			t.Error("who holds less gives up, too")
		}
	}
	if _, n := h.yield(0, false); n != 0 {
		t.Error("more are given up before the first have ended")
	}
	for _, c := range all {
		if s := c.session.(*fakeSession); s.ended != nil {
			h.remove(c)
		}
	}
	now = now.Add(5 * time.Second)
	for _, s := range append(large, small...) {
		s.idle = now.Add(-time.Second)
	}
	if _, n := h.yield(0, true); n != 0 {
		t.Errorf("%d busy ones are given up for lack of descriptors", n)
	}
	if h.count("10.0.1.1") != 200 || h.count("nobody") != 0 {
		t.Error("counts")
	}
	for _, c := range all {
		h.remove(c)
	}
	if len(h.all) != 0 {
		t.Errorf("%d holders are left", len(h.all))
	}
}
