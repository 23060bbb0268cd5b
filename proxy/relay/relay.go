package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/meshless-dev/meshless/proxy/listen"
)

// Reasons why a relayed connection ended. Abort may give others.
const (
	Done      = "done"      // both directions ended in order
	Reset     = "reset"     // one side reset it, or was reset
	Truncated = "truncated" // TLS ended without close_notify
	Alert     = "alert"     // the TLS peer sent an alert, such as that it refuses our certificate
	Idle      = "idle"      // nothing moved for the idle timeout
	Failed    = "failed"    // anything else
)

var (
	errTruncated = errors.New("TLS stream ended without close_notify")
	errIdle      = errors.New("nothing moved for the idle timeout")
)

// Options of a session.
type Options struct {
	Idle     time.Duration // a pair on which nothing moves for so long, in both directions, is ended; default 1 h
	Prefix   []byte        // was read from opener already; goes to target first
	Received func(int64)   // called as bytes from opener were passed on; may be nil
	Sent     func(int64)   // called as bytes to opener were passed on; may be nil
}

// Result is how a session ended.
type Result struct {
	Received, Sent int64  // bytes from opener to target, and back
	Reason         string // Done, Reset, ..., or what Abort was given
	Err            error  // nil for Done
}

// Session relays between two sides. Make it with New; Start it once.
type Session struct {
	opener, target *Side
	options        Options
	last           atomic.Int64 // when bytes moved last, in nanoseconds since the start
	start          time.Time
	unwatch        func()
	done           func(Result)

	endOnce sync.Once
	aborted atomic.Bool
	reason  string
	err     error

	mu    sync.Mutex
	joint *joint // the two sides in an engine; nil if goroutines move them
}

// New makes a session between the side that opened the connection and its target.
func New(opener, target *Side, o Options) *Session {
	if o.Idle <= 0 {
		o.Idle = time.Hour
	}
	return &Session{opener: opener, target: target, options: o, start: time.Now()}
}

// Abort ends the session: both sides see a reset. Only the first call counts. It may be called at any time, from any
// goroutine.
func (s *Session) Abort(reason string, err error) {
	s.endOnce.Do(func() {
		s.reason, s.err = reason, err
		s.aborted.Store(true)
		s.mu.Lock()
		joint := s.joint
		s.mu.Unlock()
		if joint != nil {
			joint.end()
			return
		}
		s.opener.abort()
		s.target.abort()
	})
}

// Vanished tells whether a side has not acknowledged for long what was sent to it.
func (s *Session) Vanished() error {
	s.mu.Lock() // no socket of the engine is closed meanwhile
	defer s.mu.Unlock()
	if s.joint != nil {
		return s.joint.vanished()
	}
	for _, side := range []*Side{s.opener, s.target} {
		if listen.Vanished(side.tcp) {
			return vanishedError(side.tcp.RemoteAddr())
		}
	}
	return nil
}

func vanishedError(peer net.Addr) error {
	return fmt.Errorf("%s has acknowledged nothing for about a minute", peer)
}

// Start relays until both directions have ended, closes both sides, and then calls done, in any goroutine. What has
// records is moved by the engine.
func (s *Session) Start(e *Engine, done func(Result)) {
	s.done, s.unwatch = done, s.watch()
	if s.opener.records != nil || s.target.records != nil {
		e.add(s)
		return
	}
	go s.run()
}

// run moves both directions by goroutines.
func (s *Session) run() {
	var received, sent int64
	var back sync.WaitGroup
	back.Go(func() { sent = s.flow(s.opener, s.target, nil, s.options.Sent) })
	received = s.flow(s.target, s.opener, s.options.Prefix, s.options.Received)
	back.Wait()
	if s.orderlyEnd() {
		s.opener.close()
		s.target.close()
	}
	s.conclude(received, sent)
}

// orderlyEnd is true if nobody has aborted the session, and from here on nobody can.
func (s *Session) orderlyEnd() (yes bool) {
	s.endOnce.Do(func() { s.reason, yes = Done, true })
	return yes
}

// conclude reports the end, after orderlyEnd or Abort.
func (s *Session) conclude(received, sent int64) {
	s.unwatch()
	s.done(Result{Received: received, Sent: sent, Reason: s.reason, Err: s.err})
}

// watch aborts the session when nothing has moved for the idle timeout. Moving bytes only stores a time; the timer
// looks at it.
func (s *Session) watch() (stop func()) {
	s.moved()
	var timer *time.Timer
	var stopped atomic.Bool
	set := make(chan struct{})
	timer = time.AfterFunc(s.options.Idle, func() {
		<-set // timer is assigned
		if stopped.Load() {
			return
		}
		if left := s.options.Idle - (time.Since(s.start) - time.Duration(s.last.Load())); left > 0 {
			timer.Reset(left)
			return
		}
		s.Abort(Idle, errIdle)
	})
	close(set)
	return func() {
		stopped.Store(true)
		timer.Stop()
	}
}

func (s *Session) moved() { s.last.Store(int64(time.Since(s.start))) }

// flow moves one direction to its end. An error in it aborts the whole session.
func (s *Session) flow(dst, src *Side, prefix []byte, count func(int64)) int64 {
	f := &flow{session: s, dst: dst, src: src, count: count}
	err := f.write(prefix)
	if err == nil {
		err = f.run()
	}
	if err == nil {
		err = dst.closeWrite()
	}
	if err != nil {
		s.Abort(reasonOf(err), err)
	}
	return f.total
}

func reasonOf(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, errTruncated), errors.Is(err, io.ErrUnexpectedEOF):
		return Truncated
	case errors.As(err, &op) && op.Op == "remote error":
		return Alert
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ENOTCONN):
		return Reset
	}
	return Failed
}
