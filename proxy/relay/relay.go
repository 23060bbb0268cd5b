package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
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
	switch {
	case err != nil:
	case dst.tls == nil && src.tls == nil:
		err = f.splice()
	default:
		err = f.copy()
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

// flow is one direction.
type flow struct {
	session  *Session
	dst, src *Side
	count    func(int64)
	total    int64
}

func (f *flow) add(n int64) {
	if n <= 0 {
		return
	}
	f.total += n
	f.session.moved()
	if f.count != nil {
		f.count(n)
	}
}

func (f *flow) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := f.dst.write(p)
	f.add(int64(n))
	return err
}

// spliceChunk is how much is spliced between two updates of the counters.
const spliceChunk = 4 << 20

// splice moves bytes inside the kernel (splice(2), which net.TCPConn.ReadFrom uses when both ends are bare). Only the source gets a
// deadline, and only so that the counters are updated: at that point nothing is in flight in the pipe, so nothing is lost.
func (f *flow) splice() error {
	for {
		_ = f.src.tcp.SetReadDeadline(time.Now().Add(f.session.options.Idle / 4))
		n, err := f.dst.tcp.ReadFrom(&io.LimitedReader{R: f.src.tcp, N: spliceChunk})
		f.add(n)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return err
		case n < spliceChunk:
			if err := f.src.judgeEnd(); err != io.EOF {
				return err
			}
			return nil
		}
	}
}

// Most connections are small or idle, so each begins with a small buffer and gets a large one when it fills that.
const (
	smallBuffer = 4 << 10
	largeBuffer = 32 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// copy moves bytes through a buffer, for TLS on a side.
func (f *flow) copy() error {
	small := smallBuffers.Get().(*[smallBuffer]byte)
	full, err := f.copyWith(small[:], true)
	smallBuffers.Put(small)
	if !full {
		return err
	}
	large := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(large)
	_, err = f.copyWith(large[:], false)
	return err
}

// copyWith copies until the end or an error, or, if untilFull, until a read fills the buffer.
func (f *flow) copyWith(buffer []byte, untilFull bool) (full bool, err error) {
	for {
		n, readErr := f.src.read(buffer)
		if err := f.write(buffer[:n]); err != nil {
			return false, err
		}
		switch {
		case readErr == io.EOF:
			return false, nil
		case readErr != nil:
			return false, readErr
		case untilFull && n == len(buffer):
			return true, nil
		}
	}
}
