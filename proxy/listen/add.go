package listen

import (
	"context"
	"net"
	"runtime/pprof"
)

// begin accepts from the listeners that are there, and lets others be added until accepting ends.
func (s *Server) begin(ctx, accepting context.Context) {
	s.mu.Lock()
	s.ctx, s.begun = ctx, accepting
	s.loops.Add(1) // until no listener can be added
	first := s.Listeners
	s.mu.Unlock()
	context.AfterFunc(accepting, func() {
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		s.loops.Done()
	})
	for _, l := range first {
		s.Add(l)
	}
}

// Add accepts from one more listener, until it or the server ends. False: the server takes no connections any more, and
// l is closed.
func (s *Server) Add(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		l.Close()
		return false
	case s.begun == nil:
		s.Listeners = append(s.Listeners, l)
		return true
	}
	accepting, ctx := s.begun, s.ctx
	closeAtEnd := context.AfterFunc(accepting, func() { l.Close() })
	s.loops.Go(func() {
		defer closeAtEnd()
		// those of connections inherit it
		pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels("meshless", s.Name)))
		s.accept(accepting, l)
	})
	return true
}
