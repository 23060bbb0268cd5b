package connection

import (
	"net/netip"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// What a trial has shown is remembered for so long, of so many addresses.
const (
	foreignTime = 5 * time.Minute
	meshTime    = 10 * time.Minute // as the grace cache of package destination
	maxVerdicts = 4096
)

// trials knows the trials of mutual TLS that are under way, and what came of others. Make it with newTrials.
type trials struct {
	now      func() time.Time
	mu       sync.Mutex
	running  map[netip.AddrPort]*trial
	verdicts map[netip.AddrPort]verdict // with port 0: of an address, where a port of it was of the mesh
}

// trial is one that is under way or, once done is closed, over.
type trial struct {
	done   chan struct{}
	result telemetry.Trial
	err    error // what the server did, where it is not of the mesh
}

type verdict struct {
	result telemetry.Trial
	until  time.Time
}

func newTrials(now func() time.Time) *trials {
	return &trials{now: now, running: map[netip.AddrPort]*trial{}, verdicts: map[netip.AddrPort]verdict{}}
}

// begin is what is known of dst: a trial that is over or under way or, if first, one that the caller makes and then
// concludes.
func (t *trials) begin(dst netip.AddrPort) (known *trial, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.verdicts[dst]; ok && t.now().Before(v.until) {
		over := &trial{done: make(chan struct{}), result: v.result}
		close(over.done)
		return over, false
	}
	if running := t.running[dst]; running != nil {
		return running, false
	}
	mine := &trial{done: make(chan struct{}), result: telemetry.TrialFailed}
	t.running[dst] = mine
	return mine, true
}

// conclude remembers what came of a trial. One that proved nothing is made again by the next connection.
func (t *trials) conclude(dst netip.AddrPort, over *trial) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, dst)
	switch {
	case over.result == telemetry.TrialMesh, over.err != nil && ofMesh(over.err):
		t.keep(dst, verdict{telemetry.TrialMesh, t.now().Add(meshTime)})
		t.keep(netip.AddrPortFrom(dst.Addr(), 0), verdict{telemetry.TrialMesh, t.now().Add(meshTime)})
	case over.result.Foreign():
		t.keep(dst, verdict{over.result, t.now().Add(foreignTime)})
	}
	close(over.done)
}

// keep makes room by removing what is over, and else any verdict: the next connection makes the trial again.
func (t *trials) keep(dst netip.AddrPort, v verdict) {
	if len(t.verdicts) >= maxVerdicts {
		var last netip.AddrPort
		for dst, v := range t.verdicts {
			if last = dst; !t.now().Before(v.until) {
				delete(t.verdicts, dst)
			}
		}
		if len(t.verdicts) >= maxVerdicts {
			delete(t.verdicts, last)
		}
	}
	t.verdicts[dst] = v
}

// wasMesh tells whether a port of addr was of the mesh a short while ago.
func (t *trials) wasMesh(addr netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.verdicts[netip.AddrPortFrom(addr, 0)]
	return ok && t.now().Before(v.until)
}

// forget drops that a server proved not to be of the mesh.
func (t *trials) forget(dst netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.verdicts[dst]; ok && v.result.Foreign() {
		delete(t.verdicts, dst)
	}
}
