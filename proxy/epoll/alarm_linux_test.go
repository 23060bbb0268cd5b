package epoll

import (
	"testing"
	"time"
)

// setter sets the alarm of its loop in each turn.
type setter struct {
	loop *Loop
	rung chan int
	n    int
}

func (s *setter) Turn() bool {
	s.n++
	n := s.n
	s.loop.Alarm(time.Hour, func() { s.rung <- -1 }) // is moved
	s.loop.Alarm(time.Millisecond, func() { s.rung <- n })
	return false
}

func (*setter) Fail(error) {}

// TestAlarm: an alarm rings once, and the last that was set counts. An idle loop hears it.
func TestAlarm(t *testing.T) {
	l, _, _, _, _ := running(t)
	s := &setter{loop: l, rung: make(chan int, 10)}
	task := &Task{Handler: s}
	for want := 1; want <= 3; want++ {
		if !l.Wake(task) {
			t.Fatal("the loop has ended")
		}
		select {
		case got := <-s.rung:
			if got != want {
				t.Errorf("alarm %d rang, want %d", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no alarm rings")
		}
	}
	if len(s.rung) > 0 {
		t.Errorf("another alarm rings, %d", <-s.rung)
	}
}
