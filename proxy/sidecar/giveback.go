package sidecar

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	giveBackInterval = 5 * time.Second
	// giveBackFrom is the smallest burst that is worth a collection. Few connections may hold much.
	giveBackFrom = 100
	// giveBackRounds is how often memory is given back after a burst. Its last connections end after the first round,
	// and what serves them meanwhile leaves garbage as well.
	giveBackRounds = 3
	// giveBackShare bounds the time of collections: one in so many.
	giveBackShare = 50
)

// giveBack returns memory to the system after a burst, until ctx ends. Go collects by what is allocated, so the garbage
// of connections that are gone would stay for as long as little happens: two minutes, and longer for the pages.
func (s *Sidecar) giveBack(ctx context.Context) {
	ticker := time.NewTicker(giveBackInterval)
	defer ticker.Stop()
	var next time.Time
	for most, rounds := 0, 0; ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		most = max(most, s.inbound.Peak()+s.outbound.Peak()) // a burst may be over before anybody looks
		if active := s.inbound.Active() + s.outbound.Active(); most >= giveBackFrom && active <= most/4 {
			most, rounds = active, giveBackRounds
		}
		began := time.Now()
		if rounds == 0 || began.Before(next) {
			continue
		}
		rounds--
		runtime.GC() // pools let go of buffers at the second collection
		debug.FreeOSMemory()
		next = began.Add(giveBackShare * time.Since(began))
	}
}
