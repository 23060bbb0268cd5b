package relay

import (
	"crypto/tls"
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

// Session relays between two sides. Make it with New; Run it once.
type Session struct {
	opener, target *Side
	options        Options
	last           atomic.Int64 // when bytes moved last, in nanoseconds since the start
	start          time.Time

	abortOnce sync.Once
	reason    string
	err       error
}

// New makes a session between the side that opened the connection and its target.
func New(opener, target *Side, o Options) *Session {
	if o.Idle <= 0 {
		o.Idle = time.Hour
	}
	return &Session{opener: opener, target: target, options: o, start: time.Now()}
}

// Abort ends the session: both sides see a reset. Only the first call counts. It may be called at any time, from any goroutine.
func (s *Session) Abort(reason string, err error) {
	s.abortOnce.Do(func() {
		s.reason, s.err = reason, err
		s.opener.abort()
		s.target.abort()
	})
}

// Vanished tells whether a side has not acknowledged for long what was sent to it.
func (s *Session) Vanished() error {
	for _, side := range []*Side{s.opener, s.target} {
		if listen.Vanished(side.tcp) {
			return fmt.Errorf("%s has acknowledged nothing for about a minute", side.tcp.RemoteAddr())
		}
	}
	return nil
}

// Run relays until both directions have ended, and closes both sides.
func (s *Session) Run() Result {
	defer s.watch()()
	var result Result
	var back sync.WaitGroup
	back.Go(func() { result.Sent = s.flow(s.opener, s.target, nil, s.options.Sent) })
	result.Received = s.flow(s.target, s.opener, s.options.Prefix, s.options.Received)
	back.Wait()
	s.abortOnce.Do(func() { // nobody aborted, and from here on nobody can
		s.reason = Done
		s.opener.close()
		s.target.close()
	})
	result.Reason, result.Err = s.reason, s.err
	return result
}

// watch aborts the session when nothing has moved for the idle timeout. Moving bytes only stores a time; the timer looks at it.
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
	var alert tls.AlertError
	switch {
	case errors.Is(err, errTruncated), errors.Is(err, io.ErrUnexpectedEOF):
		return Truncated
	case errors.As(err, &alert), errors.As(err, &op) && op.Op == "remote error":
		return Alert
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ENOTCONN):
		return Reset
	}
	return Failed
}
