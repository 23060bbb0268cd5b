package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sync"
	"time"
)

const (
	maxKinds    = 20   // of errors that are told apart
	maxInFlight = 1000 // more is a target that hangs, and counts as failed
)

// stats is what came of the requests so far.
type stats struct {
	Requests int            `json:"requests"`
	Failed   int            `json:"failed"`
	Reopened int            `json:"reopened"` // kept connections that ended just then; each was tried once more
	Errors   map[string]int `json:"errors"`
	Slowest  int64          `json:"slowest_ms"`
}

type counter struct {
	mu sync.Mutex
	stats
}

func (c *counter) add(err error, reopened bool, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Requests++
	c.Slowest = max(c.Slowest, took.Milliseconds())
	if reopened {
		c.Reopened++
	}
	if err == nil {
		return
	}
	c.Failed++
	if c.Errors == nil {
		c.Errors = map[string]int{}
	}
	text := kind(err)
	if _, known := c.Errors[text]; !known && len(c.Errors) >= maxKinds-1 {
		text = "others"
	}
	c.Errors[text]++
}

// clientPort is what makes each error of a connection a text of its own.
var clientPort = regexp.MustCompile(`(:\d+)->`)

func kind(err error) string { return clientPort.ReplaceAllString(err.Error(), "->") }

// now is a copy that nobody writes to.
func (c *counter) now(reset bool) stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Errors = map[string]int{}
	for text, n := range c.Errors {
		s.Errors[text] = n
	}
	if reset {
		c.stats = stats{}
	}
	return s
}

// generator is the flags of load.
type generator struct {
	counter
	rate      float64
	keepalive bool
	runs      time.Duration
	port      int
	timeout   time.Duration
	marker    string
	urls      []string
}

func parseLoad(args []string, env map[string]string) (*generator, error) {
	g := &generator{marker: env["MARKER"]}
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.Float64Var(&g.rate, "rate", 0, "requests per second in total")
	flags.BoolVar(&g.keepalive, "keepalive", false, "every second request on kept connections")
	flags.DurationVar(&g.runs, "for", 0, "end after this time, and fail if a request has")
	flags.IntVar(&g.port, "port", 8090, "where GET /stats and GET /reset are")
	flags.DurationVar(&g.timeout, "timeout", 5*time.Second, "of one request")
	var err error
	if g.urls, err = targets(flags, args); err != nil {
		return nil, err
	}
	if g.rate <= 0 || g.rate > 10_000 {
		return nil, fmt.Errorf("load: --rate %v is not between 0 and 10000", g.rate)
	}
	return g, nil
}

// load requests until its time is over or SIGTERM comes, and prints the stats at its end.
func load(ctx context.Context, args []string, env map[string]string, out io.Writer) error {
	g, err := parseLoad(args, env)
	if err != nil {
		return err
	}
	a := newApp()
	a.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, g.now(false)) })
	a.HandleFunc("GET /reset", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, g.now(true)) })
	serving, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- listen(serving, []int{g.port}, a) }()
	limit := g.runs
	if limit == 0 {
		limit = 1 << 62
	}
	over := time.NewTimer(limit)
	defer over.Stop()
	requesting, halt := context.WithCancel(ctx)
	defer halt()
	done := make(chan struct{})
	go func() { g.generate(requesting); close(done) }()
	select {
	case <-over.C:
	case <-ctx.Done():
	case err := <-ended:
		return fmt.Errorf("port %d: %w", g.port, err)
	}
	halt()
	<-done
	s := g.now(false)
	if err := printJSON(out, s); err != nil {
		return err
	}
	if g.runs > 0 && s.Failed > 0 {
		return errFailed
	}
	return nil
}

// generate sends requests at the rate until ctx ends, and then waits for those under way.
func (g *generator) generate(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, maxInFlight)
	tick := time.NewTicker(time.Duration(float64(time.Second) / g.rate))
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
			g.add(fmt.Errorf("%d requests are still unanswered", maxInFlight), false, 0)
			continue
		}
		running.Go(func() {
			defer func() { <-places }()
			g.one(n)
		})
	}
}

// one sends the nth request. It is not cut short when the load ends: that would be a failure of our own making.
func (g *generator) one(n int) {
	// Each target gets both kinds of connection, however many targets there are.
	url, kept := g.urls[n%len(g.urls)], g.keepalive && n/len(g.urls)%2 == 0
	started := time.Now()
	var reopened bool
	var err error
	if kept {
		reopened, err = keptRequest(context.Background(), g.timeout, url, g.marker)
	} else {
		_, _, err = request(context.Background(), oneShot, g.timeout, url, g.marker)
	}
	g.add(err, reopened, time.Since(started))
}
