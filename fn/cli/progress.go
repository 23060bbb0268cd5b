package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/term"
)

// When a progress line appears, and how often it is drawn anew.
const (
	progressDelay    = time.Second
	progressInterval = 100 * time.Millisecond
)

// progress is one line on a terminal that says how far a long run is, and that is gone when it ends. The nil progress
// draws nothing.
type progress struct {
	out           io.Writer
	now           func() time.Time // of the person who waits; the render's own clock may stand still
	width         int              // of the terminal: a longer line would wrap, and the erasing miss a part of it
	started, last time.Time
	drawn         bool
}

// newProgress returns nil unless stderr is a terminal with a person before it.
func (p *program) newProgress() *progress {
	f, ok := p.err.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("CI") != "" || os.Getenv("TERM") == "dumb" {
		return nil
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	return &progress{out: f, now: time.Now, width: width, started: time.Now()}
}

// step is pipeline.Options.Progress.
func (p *progress) step(what string, done, total int) {
	if p == nil {
		return
	}
	now := p.now()
	if now.Sub(p.started) < progressDelay || now.Sub(p.last) < progressInterval {
		return
	}
	p.last, p.drawn = now, true
	line := fmt.Sprintf("%s %s of %s workloads", what, thousands(done), thousands(total))
	fmt.Fprintf(p.out, "\r%s\x1b[K", line[:min(len(line), max(p.width-1, 0))])
}

// end erases the line.
func (p *progress) end() {
	if p != nil && p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// thousands writes 10000 as 10,000.
func thousands(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
