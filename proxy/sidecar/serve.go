package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/proxy/registry"
)

// serve runs the proxy until it has drained, until ctx ends, or until an admin server or the engine fails. Metrics,
// health and probes are served from the beginning to the end: the kubelet asks before the first generation and while
// the app shuts down.
func (p *proxy) serve(ctx context.Context) error {
	defer p.engine.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var background sync.WaitGroup
	for _, s := range p.servers {
		background.Go(func() {
			if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
				cancel(fmt.Errorf("serving %s: %w", s.listener.Addr(), err))
			}
		})
	}
	background.Go(func() { p.source.Run(ctx) })
	background.Go(func() { p.registry.Run(ctx, registry.Intervals{Verify: verifyInterval, Vanish: vanishInterval}) })
	background.Go(func() {
		select {
		case err := <-p.engine.Failed():
			cancel(fmt.Errorf("relay: %w", err))
		case <-ctx.Done():
		}
	})
	p.serveTraffic(ctx)
	err := context.Cause(ctx)
	cancel(nil)
	p.stopServers()
	background.Wait()
	if errors.Is(err, context.Canceled) { // a second signal
		return nil
	}
	return err
}

// serveTraffic waits for the first good generation, so that early connections wait in the kernel's queue and do not
// fail; then it serves both directions until they have drained.
func (p *proxy) serveTraffic(ctx context.Context) {
	connections, cut := context.WithCancel(ctx)
	var traffic sync.WaitGroup
	defer func() {
		cut() // what is being looked up or dialed
		p.closeTraffic(&traffic)
	}()
	select {
	case <-p.first:
		traffic.Go(func() { p.inbound.Serve(connections, p.draining) })
		traffic.Go(func() { p.outbound.Serve(connections, nil) })
		p.serving.Store(true)
		time.AfterFunc(startsFor, p.program.Release)
	case <-p.ending:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-p.ending:
		p.drained(ctx)
	case <-ctx.Done():
	}
}

// drained waits until no connection and no handler is left, or until the drain timeout is over, counted from the
// beginning of the drain: what a preStop hook has waited is part of the same grace period. What the app opens is still
// served: to finish its work it may need others. Its preStop handler, too, runs through us and at the same time as our
// own end.
func (p *proxy) drained(ctx context.Context) {
	timeout := time.NewTimer(time.Until(p.began.Add(p.args.DrainTimeout)))
	defer timeout.Stop()
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for p.inbound.Active()+p.outbound.Active()+p.prober.Active() > 0 {
		select {
		case <-poll.C:
		case <-timeout.C:
			p.log.Warn("drain timeout: connections are cut", "inbound", p.inbound.Active(), "outbound", p.outbound.Active())
			return
		case <-ctx.Done():
			return
		}
	}
	p.log.Info("drained")
}

// closeTraffic cuts the connections that are left. Those in their handshake are given a moment; the end of the process
// cuts the rest.
func (p *proxy) closeTraffic(traffic *sync.WaitGroup) {
	for _, l := range p.traffic {
		l.Close() // again, or for the first time if no generation was ever good
	}
	p.registry.AbortAll(errors.New("the proxy ends"))
	done := make(chan struct{})
	go func() {
		traffic.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(shutdownBudget):
	}
}

// stopServers lets the admin servers finish what they answer, within a short time.
func (p *proxy) stopServers() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownBudget)
	defer cancel()
	for _, s := range p.servers {
		if s.server.Shutdown(ctx) != nil {
			s.server.Close()
		}
	}
}
