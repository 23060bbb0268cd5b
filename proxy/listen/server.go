package listen

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/meshless-dev/meshless/proxy/budget"
)

// Refusal is why a connection is not served at all.
type Refusal string

// The refusals.
const (
	ParkFull   Refusal = "no connection more can wait, and of this source wait most"
	WaitedLong Refusal = "it has waited for a minute for its turn"
)

// MaxWait is how long a connection waits for its turn.
const MaxWait = time.Minute

// tickInterval is how often the waiting ones are looked at.
const tickInterval = 250 * time.Millisecond

// Server accepts whatever comes, at once, and serves it when it is its turn. What waits costs a descriptor and little
// memory: no goroutine, and no state of TLS. Sources take turns for a limited number of slots, which connections hold
// until their peer is known. So a burst costs time, and nothing is refused but what is more than the pool can hold.
type Server struct {
	Name       string // label of its goroutines in profiles
	Listeners  []net.Listener
	Pool       *budget.Pool
	Handshakes int // slots
	// Source is who asks, in whose turn a connection is served; default: the peer's address.
	Source func(*net.TCPConn) netip.AddrPort
	// Patience is how long the first byte of a connection is waited for. Before that it has no turn, so one that is
	// silent has no slot. If nil, a connection has its turn without.
	Patience func(*net.TCPConn) time.Duration
	// Intercept takes a connection that is none to be served, before it waits for a turn, and is then true. It may be
	// nil.
	Intercept func(*net.TCPConn) bool
	// Handle runs in a goroutine of its own. It ends c, perhaps after it has returned.
	Handle  func(ctx context.Context, c *Conn)
	Refuse  func(c *Conn, why Refusal) // ends a connection that is not served
	OnError func(error)                // an accept failed and is tried again
	// Pressed is called while connections wait and all places are taken. One that waits is of a source that holds so
	// many. It may be nil.
	Pressed func(held int)
	// Exhausted is called when the system has no descriptor or no memory left. It may be nil.
	Exhausted func()

	room     *budget.Room
	mu       sync.Mutex
	ctx      context.Context
	turns    *turns
	ready    *readiness
	begun    context.Context // ends with accepting; nil before Serve
	ended    bool            // no listener is added any more
	loops    sync.WaitGroup  // of accepts
	ticking  bool
	cutOff   bool
	active   atomic.Int64
	peak     atomic.Int64 // of active, since Peak was asked
	starved  atomic.Bool  // the last accept failed
	handlers sync.WaitGroup
}

// Init prepares the server. Call it before Serve of any server that shares the pool.
func (s *Server) Init() error {
	var err error
	s.turns = newTurns(s.Handshakes)
	s.room = s.Pool.Room(s.kick)
	if s.Patience != nil {
		s.ready, err = newReadiness()
	}
	return err
}

// Active is the number of connections that have not ended, with those that wait.
func (s *Server) Active() int { return int(s.active.Load()) }

// Peak is the most that Active was since the last call.
func (s *Server) Peak() int {
	return int(max(s.peak.Swap(s.active.Load()), s.active.Load()))
}

// Accepts tells whether connections are taken from the kernel: not while accepts fail.
func (s *Server) Accepts() bool { return !s.starved.Load() }

// Waiting is the number of connections that wait for their turn, or for their first byte.
func (s *Server) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turns.ready + s.turns.silent
}

// Serve accepts until stop is closed, which may be nil, or until ctx ends. Then it closes the listeners and waits until
// all connections have ended. Handlers get ctx: stop lets them go on, and what waits is still served.
func (s *Server) Serve(ctx context.Context, stop <-chan struct{}) {
	accepting, cancel := context.WithCancel(ctx)
	defer cancel()
	var watching sync.WaitGroup
	if s.ready != nil {
		watching.Go(func() { s.ready.run(s.spoke) })
	}
	s.begin(ctx, accepting)
	go func() {
		select {
		case <-stop:
			cancel()
			s.silence(time.Now())
		case <-accepting.Done():
		}
	}()
	uncut := context.AfterFunc(ctx, s.cut)
	defer uncut()
	s.loops.Wait()
	s.handlers.Wait()
	if s.ready != nil {
		s.ready.close()
		watching.Wait()
	}
}

func (s *Server) accept(accepting context.Context, l net.Listener) {
	wait := time.Duration(0)
	for {
		c, err := l.Accept()
		if tcp, ok := c.(*net.TCPConn); ok {
			wait = 0
			s.starved.Store(false)
			if s.Intercept != nil && s.Intercept(tcp) {
				_ = tcp.Close() // in order: a reset could come before the dialer has seen that it is connected
				continue
			}
			_ = tcp.SetKeepAliveConfig(KeepAlive)
			s.admit(tcp, time.Now())
			continue
		}
		switch {
		case err == nil:
			c.Close()
			continue
		case accepting.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		}
		s.OnError(err)
		s.starved.Store(true)
		if Exhausted(err) {
			s.relieve()
		}
		wait = min(max(2*wait, 5*time.Millisecond), time.Second) // EMFILE lasts; do not spin
		select {
		case <-time.After(wait):
		case <-accepting.Done():
		}
	}
}

// Exhausted tells whether an error says that the process or the machine has no descriptor or no memory left.
func Exhausted(err error) bool {
	return slices.ContainsFunc([]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS}, func(e error) bool { return errors.Is(err, e) })
}

// relieve gives up connections that wait, silent ones of strangers first, and asks for more.
func (s *Server) relieve() {
	const part, least = 16, 8
	s.mu.Lock()
	var victims []*waiting
	for range max(least, (s.turns.ready+s.turns.silent)/part) {
		most := s.turns.fullest(time.Now())
		if most == nil || len(most.silent) == 0 {
			break
		}
		w := most.newest()
		s.leave(w)
		victims = append(victims, w)
	}
	s.mu.Unlock()
	s.refuse(victims, ParkFull)
	if s.Exhausted != nil {
		s.Exhausted()
	}
}

func (s *Server) sourceOf(tcp *net.TCPConn) netip.AddrPort {
	if s.Source != nil {
		return s.Source(tcp)
	}
	return netip.AddrPortFrom(AddrPort(tcp.RemoteAddr()).Addr().WithZone(""), 0)
}

// admit lets a connection in, and serves it at once where nobody waits.
func (s *Server) admit(tcp *net.TCPConn, now time.Time) {
	c := &Conn{TCPConn: tcp, Accepted: now, server: s}
	key := s.sourceOf(tcp)
	active := s.active.Add(1)
	for peak := s.peak.Load(); active > peak && !s.peak.CompareAndSwap(peak, active); peak = s.peak.Load() {
	}
	s.handlers.Add(1)
	s.mu.Lock()
	w := &c.waiting
	*w = waiting{conn: c, source: s.turns.of(key), since: now}
	standing := w.source.standing(now)
	if s.ready == nil && s.turns.ready == 0 && s.turns.open(standing) && s.turns.mayServe(w.source) && s.room.Serve(false) {
		s.turns.serve(w, standing, now)
		s.mu.Unlock()
		go s.Handle(s.ctx, c)
		return
	}
	victims := s.makeRoom(w, now)
	if !slices.Contains(victims, w) {
		s.park(w, now)
	}
	s.mu.Unlock()
	s.refuse(victims, ParkFull)
	s.kick()
}

// makeRoom takes room in the park for w. If there is none, somebody has to go, who may be w itself: it is of the source
// with most that wait.
func (s *Server) makeRoom(w *waiting, now time.Time) (victims []*waiting) {
	if !s.cutOff && s.room.Park() {
		return nil
	}
	if most := s.turns.fullest(now); !s.cutOff && most != nil && s.turns.yields(most, w.source, now) {
		victim := most.newest()
		s.leave(victim)
		if victims = append(victims, victim); s.room.Park() {
			return victims
		} // else the other direction was faster
	}
	w.conn.state = refused
	return append(victims, w)
}

func (s *Server) park(w *waiting, now time.Time) {
	w.conn.state = parked
	if s.ready != nil {
		patience := s.Patience(w.conn.TCPConn)
		w.silent, w.until = true, now.Add(patience)
		if w.silent = s.ready.watch(w); w.silent && patience < 4*tickInterval { // a tick would come late
			time.AfterFunc(patience, func() { s.heardNothing(w) })
		}
	}
	s.turns.add(w, now)
	s.tickSoon()
}

// leave takes a connection out of the park.
func (s *Server) leave(w *waiting) {
	s.turns.remove(w)
	if s.ready != nil {
		s.ready.forget(w)
	}
	s.room.Unpark()
	w.conn.state = refused
}

func (s *Server) refuse(victims []*waiting, why Refusal) {
	for _, w := range victims {
		s.Refuse(w.conn, why)
	}
}

// spoke gives connections of which something has arrived their turn.
func (s *Server) spoke(arrived []*waiting) {
	now := time.Now()
	s.mu.Lock()
	for _, w := range arrived {
		if w.conn.state == parked && w.silent {
			s.ready.forget(w)
			s.turns.speaks(w, now)
		}
	}
	s.mu.Unlock()
	s.kick()
}

// heardNothing gives a connection that was waited for its turn.
func (s *Server) heardNothing(w *waiting) {
	now := time.Now()
	s.mu.Lock()
	if w.conn.state == parked && w.silent && !now.Before(w.until) {
		s.waited(w, now)
	}
	s.mu.Unlock()
	s.kick()
}

func (s *Server) waited(w *waiting, now time.Time) {
	s.ready.forget(w)
	w.conn.Silent = true
	s.turns.speaks(w, now)
}

// kick serves whoever has a turn.
func (s *Server) kick() {
	s.mu.Lock()
	if s.turns.ready == 0 || s.ctx == nil {
		s.mu.Unlock()
		return
	}
	now, pressed := time.Now(), false
	for s.turns.ready > 0 {
		scarce := s.Pool.Free() < s.turns.ready
		if pressed = !s.room.Serve(true); pressed {
			break
		}
		w := s.turns.next(now, scarce)
		if w == nil {
			s.room.Return()
			break
		}
		go s.Handle(s.ctx, w.conn)
	}
	if !pressed || s.Pressed == nil {
		s.mu.Unlock()
		return
	}
	least := s.turns.least(now)
	s.mu.Unlock()
	if least >= 0 {
		s.Pressed(least)
	}
}

func (s *Server) tickSoon() {
	if !s.ticking {
		s.ticking = true
		time.AfterFunc(tickInterval, func() { s.tick(time.Now()) })
	}
}

// tick looks for connections that have waited too long.
func (s *Server) tick(now time.Time) {
	var late []*waiting
	s.mu.Lock()
	for _, source := range s.turns.sources {
		for _, w := range slices.Clone(source.silent) {
			if !now.Before(w.until) {
				s.waited(w, now)
			}
		}
		for len(source.ready) > 0 && now.Sub(source.ready[0].since) >= MaxWait {
			w := source.ready[0]
			s.leave(w)
			late = append(late, w)
		}
	}
	if s.ready != nil {
		s.turns.hurry(now)
	}
	if s.ticking = s.turns.ready+s.turns.silent > 0; s.ticking {
		time.AfterFunc(tickInterval, func() { s.tick(time.Now()) })
	}
	s.mu.Unlock()
	s.refuse(late, WaitedLong)
	s.kick()
}

// silence leaves what is silent little time, since the end of the process waits for it.
func (s *Server) silence(now time.Time) {
	const last = 2 * time.Second
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, source := range s.turns.sources {
		for _, w := range source.silent {
			if until := now.Add(last); until.Before(w.until) {
				w.until = until
			}
		}
	}
}

// cut ends what waits.
func (s *Server) cut() {
	s.mu.Lock()
	s.cutOff = true
	var all []*waiting
	for _, source := range s.turns.sources {
		all = slices.Concat(all, source.ready, source.silent)
	}
	for _, w := range all {
		s.leave(w)
	}
	s.mu.Unlock()
	for _, w := range all {
		w.conn.End()
	}
}
