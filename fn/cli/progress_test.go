package cli

import (
	"bytes"
	"os"
	"testing"
	"time"
)

// A line appears after a second, is drawn anew ten times a second at most, fits the terminal, and is erased.
func TestProgress(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	p := &progress{out: &out, now: func() time.Time { return now }, width: 80, started: now}
	at := func(after time.Duration, done int, want string) {
		t.Helper()
		out.Reset()
		now = time.Unix(0, 0).Add(after)
		p.step("certifying", done, 10000)
		if got := out.String(); got != want {
			t.Errorf("after %s: %q, want %q", after, got, want)
		}
	}
	at(0, 1, "")
	at(999*time.Millisecond, 2, "")
	at(time.Second, 1234, "\rcertifying 1,234 of 10,000 workloads\x1b[K")
	at(1050*time.Millisecond, 1235, "")
	at(1100*time.Millisecond, 1236, "\rcertifying 1,236 of 10,000 workloads\x1b[K")
	p.width = 14
	at(2*time.Second, 1237, "\rcertifying 1,\x1b[K")
	out.Reset()
	p.end()
	if got := out.String(); got != "\r\x1b[K" {
		t.Errorf("the end is %q", got)
	}
}

// A run that was short erases nothing, and where no terminal is nothing is drawn at all.
func TestNoProgress(t *testing.T) {
	var out bytes.Buffer
	p := &progress{out: &out, now: time.Now, started: time.Now(), width: 80}
	p.step("certifying", 1, 2)
	p.end()
	if out.Len() > 0 {
		t.Errorf("a short run writes %q", out.String())
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, stderr := range []*program{{err: &out}, {err: w}} {
		none := stderr.newProgress()
		if none != nil {
			t.Errorf("%T is taken for a terminal", stderr.err)
		}
		none.step("certifying", 1, 2)
		none.end()
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 123456: "123,456", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is %s", n, got)
		}
	}
}
