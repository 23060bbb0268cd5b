package telemetry

import (
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// What strangers can make the log hold is bounded: so many lines per second of each kind, so many at once before that
// counts, and so many bytes of an error.
const (
	linesPerSecond = 20
	lineBurst      = 200
	maxError       = 1 << 10
)

// lineLimit limits the lines of one kind.
type lineLimit struct {
	lines      *rate.Limiter
	suppressed atomic.Int64
}

// lineLimits holds one of each kind, so that many lines of one do not hide another. Kinds are of small closed sets.
type lineLimits struct{ kinds sync.Map } // from string to *lineLimit

func (l *lineLimits) of(kind string) *lineLimit {
	limit, ok := l.kinds.Load(kind)
	if !ok {
		limit, _ = l.kinds.LoadOrStore(kind, &lineLimit{lines: rate.NewLimiter(linesPerSecond, lineBurst)})
	}
	return limit.(*lineLimit)
}

// allow tells whether a line of a kind may be logged, and what to add to it: how many before it were not.
func (l *lineLimits) allow(kind string) (more []any, ok bool) {
	limit := l.of(kind)
	if !limit.lines.Allow() {
		limit.suppressed.Add(1)
		return nil, false
	}
	if n := limit.suppressed.Swap(0); n > 0 {
		more = []any{"suppressed", n}
	}
	return more, true
}

// truncate bounds what a peer can write into the log: the error of a certificate quotes its names before anything of it
// is verified.
func truncate(text string) string {
	if len(text) <= maxError {
		return text
	}
	return strings.ToValidUTF8(text[:maxError], "") + "..."
}
