package telemetry

import (
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// What strangers can make the log hold is bounded: so many lines per second and so many at once before that counts, of
// each kind, and so many bytes of an error.
const (
	floodLines = 20
	floodBurst = 200
	maxError   = 1 << 10
)

// flood bounds the lines of one kind.
type flood struct {
	lines    *rate.Limiter
	unlogged atomic.Int64
}

// floods holds one of each kind, so that a flood of one does not hide another. Kinds are of small closed sets.
type floods struct {
	mu    sync.Mutex
	kinds map[string]*flood
}

func (f *floods) of(kind string) *flood {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kinds == nil {
		f.kinds = map[string]*flood{}
	}
	if f.kinds[kind] == nil {
		f.kinds[kind] = &flood{lines: rate.NewLimiter(floodLines, floodBurst)}
	}
	return f.kinds[kind]
}

// allow tells whether a line of a kind may be logged, and what to add to it: how many before it were not.
func (f *floods) allow(kind string) (more []any, ok bool) {
	flood := f.of(kind)
	if !flood.lines.Allow() {
		flood.unlogged.Add(1)
		return nil, false
	}
	if n := flood.unlogged.Swap(0); n > 0 {
		more = []any{"unlogged", n}
	}
	return more, true
}

// clip bounds what a peer can write into the log: the error of a certificate quotes its names before anything of it is
// verified.
func clip(text string) string {
	if len(text) <= maxError {
		return text
	}
	return strings.ToValidUTF8(text[:maxError], "") + "..."
}
