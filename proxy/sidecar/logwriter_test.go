package sidecar

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// stuck is a writer that waits until the test lets it go on, and fails as it is told.
type stuck struct {
	open chan struct{}

	mu  sync.Mutex
	err error
	got bytes.Buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.open
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	return s.got.Write(p)
}

func (s *stuck) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

func (s *stuck) fails(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// TestLogWriter: a log that is stuck takes what fits, loses the rest, and says how much. So does one whose disk is
// full.
func TestLogWriter(t *testing.T) {
	out := &stuck{open: make(chan struct{})}
	w := newLogWriter(out)
	line := strings.Repeat("x", 1023) + "\n"
	write := func(n int) {
		for range n {
			if _, err := w.Write([]byte(line)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(5000)
	lost := w.Lost()
	if lost < 5000-2*maxQueuedLog/1024 {
		t.Errorf("of 5,000 lines of 1 KiB %d were lost: the queue is not bounded", lost)
	}
	close(out.open)
	eventually(t, "what was queued is written", func() bool { return strings.Count(out.text(), line) == int(5000-lost) })
	write(1)
	w.flush()
	if want := fmt.Sprintf(`"msg":"log lines were lost","lines":%d`, lost); !strings.Contains(out.text(), want) {
		t.Errorf("no line has %s", want)
	}

	out.fails(errors.New("no space left on device"))
	write(3)
	w.flush()
	if got := w.Lost() - lost; got != 3 {
		t.Errorf("%d lines were lost, want 3", got)
	}
	out.fails(nil)
	write(1)
	w.flush()
	if !strings.Contains(out.text(), `"msg":"log lines were lost","lines":3`) {
		t.Error("no line says that 3 lines were lost")
	}
}
