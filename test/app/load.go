package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"github.com/meshless-dev/meshless/test/app/load"
)

// loader is the flags of load.
type loader struct {
	load.Generator
	runs time.Duration // 0 is until SIGTERM
	port int
}

func parseLoad(args []string, env map[string]string) (*loader, error) {
	l := &loader{Generator: load.Generator{Marker: env["MARKER"]}}
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.Float64Var(&l.Rate, "rate", 0, "requests per second in total")
	flags.BoolVar(&l.Keepalive, "keepalive", false, "every second request on kept connections")
	flags.DurationVar(&l.runs, "for", 0, "end after this time, and fail if a request has")
	flags.IntVar(&l.port, "port", 8090, "where GET /stats and GET /reset are")
	flags.DurationVar(&l.Timeout, "timeout", 5*time.Second, "of one request")
	var err error
	if l.URLs, err = targets(flags, args, "http://"); err != nil {
		return nil, err
	}
	if l.Rate <= 0 || l.Rate > 10_000 {
		return nil, fmt.Errorf("load: --rate %v is not between 0 and 10000", l.Rate)
	}
	return l, nil
}

// runLoad requests until its time is over or SIGTERM comes, and prints the stats at its end.
func runLoad(ctx context.Context, args []string, env map[string]string, out io.Writer) error {
	l, err := parseLoad(args, env)
	if err != nil {
		return err
	}
	h := newHandler()
	h.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, l.Stats(false)) })
	h.HandleFunc("GET /reset", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, l.Stats(true)) })
	serving, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- (&listeners{ports: ports{l.port}}).serve(serving, h) }()
	requesting, halt := context.WithTimeout(ctx, cmp.Or(l.runs, math.MaxInt64))
	defer halt()
	done := make(chan struct{})
	go func() { l.Run(requesting); close(done) }()
	select {
	case err := <-ended:
		if ctx.Err() == nil {
			return fmt.Errorf("port %d: %w", l.port, err)
		}
		<-done
	case <-done:
	}
	s := l.Stats(false)
	if err := printJSON(out, s); err != nil {
		return err
	}
	if l.runs > 0 && s.Failed > 0 {
		return errFailed
	}
	return nil
}
