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
	// ErrMemory ends the sessions that hold most without moving it, when all hold too much together.
	ErrMemory = errors.New("the connections held more memory than they may together, and this one was of those that held most")
	// ErrStuckRecord ends a session whose TLS peer has begun a record, and does not send the rest.
	ErrStuckRecord = errors.New("the peer began a TLS record and did not finish it")
)

// Limits of an engine. The zero value has the defaults.
type Limits struct {
	// Buffered is how many bytes all sessions may hold together: what was read and could not be passed on yet. Large
	// buffers are not included: those of all sessions take 8 MiB. Default 48 MiB, which fits a container of 256 MiB
	Buffered int64
	// Queued is how many bytes the kernel may hold for all sessions together, beyond what each has moved in the last
	// seconds. Default twice Buffered
	Queued int64
	// Record is how long the beginning of a record waits for the rest while nothing but the peer keeps it back. In the
	// default of 30 s the longest record arrives at 4.4 kbit/s, or behind seven retransmissions.
	Record time.Duration
}

func (l Limits) withDefaults() Limits {
	l.Buffered, l.Record = cmp.Or(l.Buffered, 48<<20), cmp.Or(l.Record, 30*time.Second)
	l.Queued = cmp.Or(l.Queued, 2*l.Buffered)
	return l
}

// Options of a session.
type Options struct {
	Idle   time.Duration // after so long without a byte in either direction the session ends; 0: never
	Owner  string        // whose memory it is, where all sessions hold too much; any name
	Prefix []byte        // was read from the client already; goes to the server first
	// Begin reads what the client sends first while the server may speak already, without TLS alone. What it returns
	// goes to the server first; an error ends the session. It may be nil
	Begin    func() ([]byte, error)
	Received func(int64) // called as bytes from the client were passed on; may be nil
	Sent     func(int64) // called as bytes to the client were passed on; may be nil
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
	timer          *time.Timer // calls checkIdle; nil without an idle timeout
	done           func(Result)

	endOnce sync.Once
	aborted atomic.Bool
	err     error                 // set within endOnce
	first   atomic.Pointer[Side]  // that ended, where goroutines move the bytes
	failed  atomic.Pointer[error] // of a write to a TLS peer, where goroutines move the bytes

	mu   sync.Mutex
	pair *pair // in an engine; nil if goroutines move the bytes
}

// New makes a session.
func New(client, server *Side, o Options) *Session {
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
// the engine moves nothing, and may be nil: then what the session holds is not counted.
func (s *Session) Start(e *Engine, done func(Result)) {
	s.done = done
	s.moved()
	if s.options.Idle > 0 {
		s.timer = time.AfterFunc(math.MaxInt64, s.checkIdle)
		s.timer.Reset(s.options.Idle) // only now checkIdle may run, since it uses timer
	}
	if s.client.records != nil || s.server.records != nil {
		e.add(s)
		return
	}
	if e != nil {
		e.know(s)
	}
	go func() {
		received, sent := s.run()
		if e != nil {
			e.forget(s)
		}
		s.conclude(received, sent)
	}()
}

// run moves both directions by goroutines.
func (s *Session) run() (received, sent int64) {
	var toClient sync.WaitGroup
	toClient.Go(func() { sent = s.flow(s.client, s.server, nil, s.options.Sent) })
	prefix := s.options.Prefix
	if s.options.Begin != nil {
		var err error
		if prefix, err = s.options.Begin(); err != nil {
			s.Abort(err)
		}
	}
	received = s.flow(s.server, s.client, prefix, s.options.Received)
	toClient.Wait()
	if err := s.failed.Load(); err != nil {
		s.Abort(*err) // in case the other direction ended in order
	}
	if s.end(nil) {
		_ = s.client.stream.Close()
		_ = s.server.stream.Close()
	} else {
		s.abortSides() // again, if whoever aborts has done so already
	}
	return received, sent
}

// conclude reports the end that was decided.
func (s *Session) conclude(received, sent int64) {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.done(Result{Received: received, Sent: sent, Err: s.err, ServerFirst: s.first.Load() == s.server})
}

// checkIdle aborts the session if nothing has moved for the idle timeout. Moving bytes only stores a time; this timer
// reads it.
func (s *Session) checkIdle() {
	if left := s.options.Idle - time.Since(s.IdleSince()); left > 0 {
		s.timer.Reset(left)
		return
	}
	s.Abort(ErrIdle) // does nothing to a session that has ended meanwhile
}

// IdleSince is when a byte moved last, in either direction. Any goroutine may call it.
func (s *Session) IdleSince() time.Time {
	last := s.counted()
	if s.client.records != nil || s.server.records != nil {
		return last
	}
	for _, side := range []*Side{s.client, s.server} { // splice does not tell before it has moved much
		if quiet, ok := quietFor(side.tcp); ok {
			if moved := time.Now().Add(-quiet); moved.After(last) {
				last = moved
			}
		}
	}
	return last
}

// counted is when moved was called last.
func (s *Session) counted() time.Time { return s.start.Add(time.Duration(s.last.Load())) }

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
		s.fail(dst, err)
	}
	return f.total
}

// alertTime is how long the alert of a peer may take that has reset the connection.
const alertTime = 100 * time.Millisecond

// fail aborts the session. If a write to a TLS peer has failed, the peer may have said why before: the other direction
// reads that, and so has a moment to abort first.
func (s *Session) fail(dst *Side, err error) {
	if dst.raw == nil || isAlert(err) {
		s.Abort(err)
		return
	}
	s.failed.Store(&err)
	time.AfterFunc(alertTime, func() { s.Abort(err) })
}

// isAlert tells whether the TLS peer has sent a fatal alert.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
