package registry_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/reason"
	"github.com/meshless-dev/meshless/proxy/registry"
)

func acceptBelow(limit uint64) registry.Verify {
	return func(s *identity.Snapshot) error {
		if s.Number >= limit {
			return errors.New("too new")
		}
		return nil
	}
}

// session is a connection without data.
type session struct {
	abort        func(reason.Reason)
	unresponsive atomic.Bool
}

func (s *session) Abort(err error) { s.abort(reason.Of(err).Reason) }

func (s *session) Unresponsive() error {
	if s.unresponsive.Load() {
		return errors.New("no answer")
	}
	return nil
}

func TestReconsider(t *testing.T) {
	r := registry.New()
	var aborted []string
	add := func(name string, from, limit uint64) *registry.Entry {
		return r.Add(&identity.Snapshot{Number: from}, acceptBelow(limit), &session{abort: func(r reason.Reason) { aborted = append(aborted, name+" "+string(r)) }})
	}
	add("a", 1, 2)
	b := add("b", 1, 9)
	r.Reconsider(&identity.Snapshot{Number: 2})
	add("late", 1, 2) // accepted under 1, but 2 is in force already
	r.Reconsider(&identity.Snapshot{Number: 1})
	add("late too", 1, 2) // an older snapshot does not come back
	if want := []string{"a " + string(reason.NoLongerAccepted), "late " + string(reason.NoLongerAccepted), "late too " + string(reason.NoLongerAccepted)}; len(aborted) != 3 ||
		aborted[0] != want[0] || aborted[1] != want[1] || aborted[2] != want[2] {
		t.Errorf("aborted %q, want %q", aborted, want)
	}
	b.Done()
	r.Reconsider(&identity.Snapshot{Number: 10})
	if len(aborted) != 3 || r.Len() != 0 {
		t.Errorf("a finished connection was aborted: %q", aborted)
	}
	add("c", 10, 99)
	r.AbortAll(errors.New("end"))
	add("after the end", 10, 99)
	if len(aborted) != 5 || aborted[4] != "after the end "+string(reason.ShutDown) {
		t.Errorf("aborted %q", aborted)
	}
}

// TestRun: what expires between generations ends too.
func TestRun(t *testing.T) {
	r := registry.New()
	expired := make(chan struct{})
	aborted := make(chan reason.Reason, 1)
	r.Reconsider(&identity.Snapshot{Number: 1})
	r.Add(&identity.Snapshot{Number: 1}, func(*identity.Snapshot) error {
		select {
		case <-expired:
			return errors.New("expired")
		default:
			return nil
		}
	}, &session{abort: func(r reason.Reason) { aborted <- r }})
	go r.Run(t.Context(), registry.Intervals{Verify: time.Millisecond, Peers: time.Hour})
	time.Sleep(10 * time.Millisecond)
	if r.Len() != 1 {
		t.Fatal("aborted too early")
	}
	close(expired)
	select {
	case <-aborted:
	case <-time.After(5 * time.Second):
		t.Error("not aborted")
	}
}

// TestUnresponsive: a connection whose peer is gone ends by itself, another does not.
func TestUnresponsive(t *testing.T) {
	r := registry.New()
	ended := make(chan reason.Reason, 2)
	gone, there := &session{abort: func(r reason.Reason) { ended <- r }}, &session{abort: func(reason.Reason) { t.Error("the wrong one was ended") }}
	for _, s := range []*session{gone, there} {
		r.Add(&identity.Snapshot{Number: 1}, acceptBelow(2), s)
	}
	go r.Run(t.Context(), registry.Intervals{Verify: time.Hour, Peers: time.Millisecond})
	gone.unresponsive.Store(true)
	select {
	case why := <-ended:
		if why != reason.PeerUnresponsive || r.Len() != 1 {
			t.Errorf("ended as %s, %d left", why, r.Len())
		}
	case <-time.After(5 * time.Second):
		t.Error("not ended")
	}
}
