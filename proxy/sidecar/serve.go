package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/proxy/registry"
)

// Run serves until Shutdown has drained, until ctx ends, which cuts what is open, or until an admin server or the
// engine fails; only the last two are errors. Call it once. Metrics, health and probes are served from the beginning to
// the end: the kubelet asks before the first generation and while the app shuts down.
func (s *Sidecar) Run(ctx context.Context) error {
	defer s.engine.Close()
	defer s.rules.close()
	serving, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var background sync.WaitGroup
	for _, b := range s.servers {
		background.Go(func() {
			if err := b.server.Serve(b.listener); !errors.Is(err, http.ErrServerClosed) {
				fail(fmt.Errorf("serving %s: %w", b.listener.Addr(), err))
			}
		})
	}
	if s.options.Confine {
		background.Go(func() { followCPULimit(serving, s.log) })
		background.Go(func() { s.giveBack(serving) })
	}
	background.Go(func() { s.identity.Run(serving) })
	background.Go(func() { s.registry.Run(serving, registry.Intervals{Verify: verifyInterval, Peers: peersInterval}) })
	background.Go(func() {
		select {
		case err := <-s.engine.Failed():
			fail(fmt.Errorf("relay: %w", err))
		case <-serving.Done():
		}
	})
	s.serveTraffic(serving)
	err := context.Cause(serving)
	fail(nil)
	s.stopServers(context.WithoutCancel(ctx))
	background.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serveTraffic waits for the first good generation, so that early connections wait in the kernel's queue and do not
// fail; then it serves both directions until they have drained.
func (s *Sidecar) serveTraffic(ctx context.Context) {
	connections, cut := context.WithCancel(ctx)
	var traffic sync.WaitGroup
	defer func() {
		cut() // what is being looked up or dialed
		s.closeTraffic(&traffic)
	}()
	select {
	case <-s.first:
		traffic.Go(func() { s.inbound.Serve(connections, s.draining) })
		traffic.Go(func() { s.outbound.Serve(connections, nil) })
		if s.rules != nil {
			traffic.Go(func() { s.rules.checker.Run(connections) })
		}
		if s.direct != nil { // what the app has asked before waits in the socket
			traffic.Go(func() { s.direct.serveNames(connections) })
		}
		s.serving.Store(true)
		time.AfterFunc(startsFor, s.program.Release)
	case <-s.ending:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-s.ending:
		s.drained(ctx)
	case <-ctx.Done():
	}
}

// drained waits until no connection and no handler is left, or until the drain timeout is over, counted from the
// beginning of the drain: what a preStop hook has waited is part of the same grace period. What the app opens is still
// served: to finish its work it may need others. Its preStop handler, too, runs through us and at the same time as our
// own end.
func (s *Sidecar) drained(ctx context.Context) {
	timeout := time.NewTimer(time.Until(s.began.Add(s.options.DrainTimeout)))
	defer timeout.Stop()
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for s.inbound.Active()+s.outbound.Active()+s.prober.Active() > 0 {
		select {
		case <-poll.C:
		case <-timeout.C:
			s.log.Warn("drain timeout: closing the connections that are left", "inbound", s.inbound.Active(), "outbound", s.outbound.Active())
			return
		case <-ctx.Done():
			return
		}
	}
	s.log.Info("drained")
}

// closeTraffic cuts the connections that are left. Those in their handshake are given a moment; the end of the process
// cuts the rest.
func (s *Sidecar) closeTraffic(traffic *sync.WaitGroup) {
	for _, l := range slices.Concat(s.bound.outbound, s.bound.inbound) {
		l.Close() // again, or for the first time if no generation was ever good
	}
	if s.direct != nil {
		s.direct.names.Close()
	}
	s.registry.AbortAll(errors.New("the proxy is shutting down"))
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
func (s *Sidecar) stopServers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shutdownBudget)
	defer cancel()
	for _, b := range s.servers {
		if b.server.Shutdown(ctx) != nil {
			b.server.Close()
		}
	}
}
