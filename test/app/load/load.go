// Package load sends HTTP requests at a fixed rate and keeps a ledger of what came of them. Generator is the load of
// the test application; Stats is what it tells, and what tests read of it.
package load

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/test/app/client"
)

const (
	maxKinds    = 20   // of errors that are told apart
	maxInFlight = 1000 // more is a target that hangs, and counts as failed
)

// Stats is what came of the requests so far, as JSON.
type Stats struct {
	Requests int            `json:"requests"` // sent and ended, failed ones included
	Failed   int            `json:"failed"`
	Reopened int            `json:"reopened"` // kept connections that ended just then; each request was sent once more
	Errors   map[string]int `json:"errors"`   // failed requests by error, client ports left out
	Slowest  int64          `json:"slowest_ms"`
}

// Answered is how many requests brought status 200.
func (s Stats) Answered() int { return s.Requests - s.Failed }

// String is the stats for people: a line, and one more for each kind of error.
func (s Stats) String() string {
	text := fmt.Sprintf("%d requests, %d failed, %d kept connections ended, slowest %d ms", s.Requests, s.Failed, s.Reopened, s.Slowest)
	for _, e := range slices.Sorted(maps.Keys(s.Errors)) {
		text += fmt.Sprintf("\n\t%d × %s", s.Errors[e], e)
	}
	return text
}

// Add adds what another ledger counted.
func (s *Stats) Add(other Stats) {
	s.Requests, s.Failed, s.Reopened, s.Slowest = s.Requests+other.Requests, s.Failed+other.Failed, s.Reopened+other.Reopened, max(s.Slowest, other.Slowest)
	if s.Errors == nil {
		s.Errors = map[string]int{}
	}
	for text, n := range other.Errors {
		s.Errors[text] += n
	}
}

// Ledger counts requests. Its zero value is empty; it may be used by several goroutines.
type Ledger struct {
	mu    sync.Mutex
	stats Stats
}

// clientPort is what makes each error of a connection a text of its own.
var clientPort = regexp.MustCompile(`(:\d+)->`)

// Record counts one request that has ended, with an error or with nil.
func (l *Ledger) Record(err error, reopened bool, took time.Duration) {
	one := Stats{Requests: 1, Slowest: took.Milliseconds()}
	if reopened {
		one.Reopened = 1
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		kind := clientPort.ReplaceAllString(err.Error(), "->")
		if _, known := l.stats.Errors[kind]; !known && len(l.stats.Errors) >= maxKinds-1 {
			kind = "others"
		}
		one.Failed, one.Errors = 1, map[string]int{kind: 1}
	}
	l.stats.Add(one)
}

// Stats is a copy of what was counted. With reset, counting begins anew.
func (l *Ledger) Stats(reset bool) Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s Stats
	s.Add(l.stats)
	if reset {
		l.stats = Stats{}
	}
	return s
}

// Generator sends requests to its URLs in turn: an open loop, which sends at its rate whatever the answers take.
type Generator struct {
	Ledger
	Rate      float64       // requests per second in total
	Keepalive bool          // every second request to a URL goes over a kept connection; all others open one each
	Timeout   time.Duration // of one request
	Marker    string        // body of a POST; "" is a GET
	URLs      []string
}

// Run sends until ctx ends, and then waits for the requests under way: one that is cut short would be a failure of our
// own making.
func (g *Generator) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, maxInFlight)
	tick := time.NewTicker(time.Duration(float64(time.Second) / g.Rate))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		select {
		case places <- struct{}{}:
		default:
			g.Record(fmt.Errorf("%d requests are still unanswered", maxInFlight), false, 0)
			continue
		}
		running.Go(func() {
			defer func() { <-places }()
			g.one(n)
		})
	}
}

// one sends the nth request.
func (g *Generator) one(n int) {
	// Each target gets both kinds of connection, however many targets there are.
	url, kept := g.URLs[n%len(g.URLs)], g.Keepalive && n/len(g.URLs)%2 == 0
	method := http.MethodGet
	if g.Marker != "" {
		method = http.MethodPost
	}
	started := time.Now()
	var reopened bool
	var err error
	if kept {
		reopened, err = client.SendKept(context.Background(), g.Timeout, method, url, g.Marker)
	} else {
		_, _, err = client.Send(context.Background(), g.Timeout, method, url, g.Marker)
	}
	g.Record(err, reopened, time.Since(started))
}
