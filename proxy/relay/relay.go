package relay

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// How sessions end, beside errors of the kernel and those of a *net.OpError: "remote error" is an alert of the TLS
// peer, "local error" its breach of the protocol.
var (
	ErrTruncated = errors.New("TLS stream ended without close_notify")
	ErrIdle      = errors.New("nothing moved for the idle timeout")
)

// Options of a session.
type Options struct {
	Idle     time.Duration // after so long without a byte in either direction the session ends; default 1 h
	Prefix   []byte        // was read from the client already; goes to the server first
	Received func(int64)   // called as bytes from the client were passed on; may be nil
	Sent     func(int64)   // called as bytes to the client were passed on; may be nil
}

// Result is how a session ended.
type Result struct {
	Received, Sent int64 // bytes from client to server, and back
	Err            error // nil if both directions ended in order; what Abort was given, if that ended it
	// the server was the first to end its direction, or has reset the connection; told without TLS alone
	ServerFirst bool
}

// Session relays between a client, which has opened a connection, and the server. Make it with New; Start it once.
type Session struct {
	client, server *Side
	options        Options
	last           atomic.Int64 // when bytes moved last, in nanoseconds since the start
	start          time.Time
	timer          *time.Timer // calls checkIdle
	done           func(Result)

	endOnce sync.Once
	aborted atomic.Bool
	err     error                // set within endOnce
	first   atomic.Pointer[Side] // that ended, where goroutines move the bytes

	mu   sync.Mutex
	pair *pair // in an engine; nil if goroutines move the bytes
}

// New makes a session.
func New(client, server *Side, o Options) *Session {
	o.Idle = cmp.Or(o.Idle, time.Hour)
	return &Session{client: client, server: server, options: o, start: time.Now()}
}

// Abort ends the session with err: both sides see a reset. Only the first call counts. Any goroutine may call it, at
// any time.
func (s *Session) Abort(err error) {
	if !s.end(err) {
		return
	}
	s.mu.Lock()
	pair := s.pair
	s.mu.Unlock()
	if pair != nil {
		pair.end()
		return
	}
	s.abortSides()
}

func (s *Session) abortSides() {
	s.client.abort()
	s.server.abort()
}

// end decides how the session ends: in order if err is nil. It is true for the first call alone.
func (s *Session) end(err error) (first bool) {
	s.endOnce.Do(func() {
		s.err, first = err, true
		s.aborted.Store(err != nil)
	})
	return first
}

// Unresponsive tells whether a side has not acknowledged for long what was sent to it.
func (s *Session) Unresponsive() error {
	s.mu.Lock() // no socket of the engine is closed meanwhile
	defer s.mu.Unlock()
	if s.pair != nil {
		return s.pair.unresponsive()
	}
	for _, side := range []*Side{s.client, s.server} {
		if unresponsive(side.tcp) {
			return unresponsiveError(side.tcp.RemoteAddr())
		}
	}
	return nil
}

func unresponsiveError(peer net.Addr) error {
	return fmt.Errorf("%s has acknowledged nothing for about a minute", peer)
}

// Start relays until both directions have ended, closes both sides, and then calls done, in any goroutine. Without TLS
// the engine is not used and may be nil.
func (s *Session) Start(e *Engine, done func(Result)) {
	s.done = done
	s.moved()
	s.timer = time.AfterFunc(math.MaxInt64, s.checkIdle)
	s.timer.Reset(s.options.Idle) // only now checkIdle may run, since it uses timer
	if s.client.records != nil || s.server.records != nil {
		e.add(s)
		return
	}
	go s.run()
}

// run moves both directions by goroutines.
func (s *Session) run() {
	var received, sent int64
	var toClient sync.WaitGroup
	toClient.Go(func() { sent = s.flow(s.client, s.server, nil, s.options.Sent) })
	received = s.flow(s.server, s.client, s.options.Prefix, s.options.Received)
	toClient.Wait()
	if s.end(nil) {
		_ = s.client.stream.Close()
		_ = s.server.stream.Close()
	} else {
		s.abortSides() // again, if whoever aborts has done so already
	}
	s.conclude(received, sent)
}

// conclude reports the end that was decided.
func (s *Session) conclude(received, sent int64) {
	s.timer.Stop()
	s.done(Result{Received: received, Sent: sent, Err: s.err, ServerFirst: s.first.Load() == s.server})
}

// checkIdle aborts the session if nothing has moved for the idle timeout. Moving bytes only stores a time; this timer
// reads it.
func (s *Session) checkIdle() {
	if left := s.options.Idle - (time.Since(s.start) - time.Duration(s.last.Load())); left > 0 {
		s.timer.Reset(left)
		return
	}
	s.Abort(ErrIdle) // does nothing to a session that has ended meanwhile
}

func (s *Session) moved() { s.last.Store(int64(time.Since(s.start))) }

// flow moves one direction to its end. An error in it aborts the whole session.
func (s *Session) flow(dst, src *Side, prefix []byte, count func(int64)) int64 {
	f := &flow{meter{session: s, count: count}, dst, src}
	err := f.write(prefix)
	switch {
	case err != nil:
	case src.raw == nil && dst.raw == nil:
		err = f.splice()
	default:
		err = f.copy()
	}
	ended := src
	if err != nil && dst.raw == nil && wasReset(dst.tcp) {
		ended = dst
	}
	s.first.CompareAndSwap(nil, ended)
	if err == nil {
		err = dst.closeWrite()
	}
	if err != nil {
		s.Abort(err)
	}
	return f.total
}
