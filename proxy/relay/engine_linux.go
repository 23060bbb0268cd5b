package relay

import (
	"context"
	"errors"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshless-dev/meshless/proxy/epoll"
)

// engineWorks tells that an engine moves TLS connections on this system.
const engineWorks = true

// maxLoops is more than a sidecar ever keeps busy.
const maxLoops = 8

// Engine moves the data of TLS connections by a few event loops. Make it with NewEngine.
type Engine struct {
	loops   []*loop
	ledger  *ledger
	next    atomic.Uint32
	running sync.WaitGroup
	failed  chan error
	ended   chan struct{}
	end     func() // closes ended
}

// patience is the least number of looks at a record before it is given up.
const patience = 8

var errEngineClosed = errors.New("the engine is closed")

// NewEngine makes an engine of so many loops, at most eight. One for each processor is right. A loop that waits is in a
// system call. Go then takes its processor away as long as no other one is idle, so leave it one more (GOMAXPROCS).
func NewEngine(loops int, limits Limits) (*Engine, error) {
	limits = limits.withDefaults()
	interval := min(time.Second, limits.Record/patience)
	e := &Engine{ledger: newLedger(limits), failed: make(chan error, 1), ended: make(chan struct{})}
	e.end = sync.OnceFunc(func() { close(e.ended) })
	places := new(lingers)
	for range min(loops, maxLoops) {
		l, err := epoll.New()
		if err != nil {
			e.start()
			e.Close()
			return nil, err
		}
		e.loops = append(e.loops, &loop{Loop: l, ledger: e.ledger, interval: interval, patience: int(limits.Record / interval), lingers: places})
	}
	e.start()
	e.running.Go(func() { e.lookAtPlain(rarely * interval) })
	return e, nil
}

func (e *Engine) start() {
	for _, l := range e.loops {
		e.running.Go(func() { e.run(l.Loop) })
	}
}

// run serves a loop. One that fails takes the engine along: the sessions that it had are lost, and new ones would be.
func (e *Engine) run(l *epoll.Loop) {
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("meshless", "relay")))
	err := l.Run()
	if err == nil {
		return
	}
	select {
	case e.failed <- err:
	default:
	}
	e.stop(err)
}

// Buffered is how many bytes the sessions hold now, as Limits.Buffered bounds them.
func (e *Engine) Buffered() int64 { return e.ledger.total[buffers].Load() }

// Queued is how many bytes the kernel holds for the sessions, as Limits.Queued bounds them and as of the last look.
func (e *Engine) Queued() int64 { return e.ledger.total[queues].Load() }

// Failed brings the error of the kernel that has ended the engine and all its sessions. The engine is useless then.
func (e *Engine) Failed() <-chan error { return e.failed }

// Close ends the loops, and every session that is still there.
func (e *Engine) Close() {
	e.stop(errEngineClosed)
	e.end()
	e.running.Wait()
}

func (e *Engine) stop(err error) {
	for _, l := range e.loops {
		l.Stop(err)
	}
}

// add takes a session over, from its sockets up. A session that was aborted already ends at once, as does one for whose
// sockets the kernel has no room.
func (e *Engine) add(s *Session) {
	p := newPair(e.loops[e.next.Add(1)%uint32(len(e.loops))], s)
	s.mu.Lock()
	if s.aborted.Load() {
		s.mu.Unlock()
		s.abortSides()
		s.conclude(0, 0)
		return
	}
	e.ledger.add(s, &p.entry)
	err := p.attach()
	s.pair = p
	s.mu.Unlock()
	if err != nil {
		s.Abort(err)
	}
}
