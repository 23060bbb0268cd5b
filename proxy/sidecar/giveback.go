package sidecar

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

// A burst that leaves fewer connections than this is not worth a collection.
const (
	giveBackInterval = 5 * time.Second
	giveBackFrom     = 500
)

// giveBack returns memory to the system after a burst, until ctx ends. Go collects by what is allocated, so the garbage
// of connections that are gone would stay for as long as little happens: two minutes, and longer for the pages.
func (s *Sidecar) giveBack(ctx context.Context) {
	ticker := time.NewTicker(giveBackInterval)
	defer ticker.Stop()
	for most := 0; ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		active := s.inbound.Active() + s.outbound.Active()
		if most = max(most, active); most < giveBackFrom || active > most/4 {
			continue
		}
		runtime.GC() // pools let go of buffers at the second collection
		debug.FreeOSMemory()
		most = active
	}
}
