package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/proxy/listen"
)

// engineWorks tells that secured connections are moved by an engine on this system.
const engineWorks = true

// maxLoops is more than a sidecar ever keeps busy.
const maxLoops = 8

// Engine moves the data of secured connections: a few loops, each with an epoll of its own and many connections. A
// connection that is idle has neither goroutine nor buffer, and one message costs three system calls and no switch
// between goroutines, which by the runtime's own poller took as much time as all the rest. Make it with NewEngine.
type Engine struct {
	loops []*loop
	next  atomic.Uint32
}

// loopCount is one for each processor that Go uses, and from then on Go uses one more: a loop that waits is in a system
// call, and while no processor is idle, the runtime's monitor takes those of system calls away again and again, which
// made it cost a small message as much as the message itself.
var loopCount = sync.OnceValue(func() int {
	n := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(n + 1)
	return min(n, maxLoops)
})

// NewEngine makes an engine. The first one changes GOMAXPROCS.
func NewEngine() (*Engine, error) {
	e := new(Engine)
	for range loopCount() {
		l, err := newLoop()
		if err != nil {
			e.Close()
			return nil, err
		}
		e.loops = append(e.loops, l)
	}
	return e, nil
}

// Close ends the loops, and every session that is still there.
func (e *Engine) Close() {
	for _, l := range e.loops {
		l.close()
	}
}

// add takes a session over, from its sockets up. If it was aborted already, or the kernel has no room for its sockets,
// it ends at once.
func (e *Engine) add(s *Session) {
	j := newJoint(e.loops[e.next.Add(1)%uint32(len(e.loops))], s)
	s.mu.Lock()
	if s.aborted.Load() {
		s.mu.Unlock()
		s.conclude(0, 0)
		return
	}
	err := j.attach()
	s.joint = j
	s.mu.Unlock()
	if err != nil {
		s.Abort(Failed, err)
	}
}

// loop waits for the sockets of many connections, and serves those that are ready one buffer at a time.
type loop struct {
	epoll, wake int // descriptors; wake is an eventfd
	done        chan struct{}

	mu      sync.Mutex
	sockets map[int32]*socket
	ending  []*joint // by Abort
	closing bool
	closed  bool // the goroutine has ended, and with it every session

	ready []*joint // of the loop's goroutine alone, like all that hangs on it
	spare []*joint
}

func newLoop() (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)})
	}
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	l := &loop{epoll: epoll, wake: wake, done: make(chan struct{}), sockets: map[int32]*socket{}}
	go l.run()
	return l, nil
}

var errEngineClosed = errors.New("the engine is closed")

func (l *loop) close() {
	l.mu.Lock()
	l.closing = true
	l.signal()
	l.mu.Unlock()
	<-l.done
}

// signal wakes the loop. It is called with the lock, under which the descriptor is closed.
func (l *loop) signal() {
	one := [8]byte{1} // in the byte order of this machine it is not zero, which is all that counts
	_, _ = unix.Write(l.wake, one[:])
}

// shut ends what is left, and gives the descriptors back.
func (l *loop) shut() {
	l.mu.Lock()
	l.closed = true
	left := slices.Collect(maps.Values(l.sockets))
	_ = unix.Close(l.epoll)
	_ = unix.Close(l.wake)
	l.mu.Unlock()
	for _, s := range left {
		s.joint.fail(errEngineClosed)
	}
	close(l.done)
}

// maxEvents is how many ready sockets are taken note of at once.
const maxEvents = 128

func (l *loop) run() {
	defer l.shut()
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("meshless", "relay")))
	events := make([]unix.EpollEvent, maxEvents)
	yielded := time.Now()
	for {
		timeout := -1
		if len(l.ready) > 0 {
			timeout = 0
		}
		n, err := unix.EpollWait(l.epoll, events, timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("epoll: %v", err)) // the descriptor is not one any more: connections would hang for ever
		}
		if l.note(events[:max(n, 0)]) {
			return
		}
		l.turn()
		if time.Since(yielded) > yieldInterval {
			runtime.Gosched()
			yielded = time.Now()
		}
	}
}

// yieldInterval is less than the 10 ms for which a goroutine may run before the runtime's monitor wants its processor
// for others, be there any or not.
const yieldInterval = 4 * time.Millisecond

// note marks what became ready, and everything that is to end.
func (l *loop) note(events []unix.EpollEvent) (closing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		if e.Fd == int32(l.wake) {
			var count [8]byte
			_, _ = unix.Read(l.wake, count[:])
			continue
		}
		if s := l.sockets[e.Fd]; s != nil {
			s.note(e.Events)
			l.queue(s.joint)
		}
	}
	for _, j := range l.ending {
		l.queue(j)
	}
	l.ending = l.ending[:0]
	return l.closing
}

func (l *loop) queue(j *joint) {
	if !j.queued {
		j.queued = true
		l.ready = append(l.ready, j)
	}
}

// turn gives everyone who is ready one turn, and those who could do more another one after that.
func (l *loop) turn() {
	turn := l.ready
	l.ready = l.spare[:0]
	for i, j := range turn {
		turn[i] = nil
		j.queued = false
		if j.turn() {
			l.queue(j)
		}
	}
	l.spare = turn
}

// watch registers a socket. Edges are enough: what is read or written to the end needs no system call to be told so.
func (l *loop) watch(s *socket) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errEngineClosed
	}
	l.sockets[int32(s.fd)] = s
	const interest = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, s.fd, &unix.EpollEvent{Events: interest, Fd: int32(s.fd)})
}

// forget is called before the socket is closed: its number may be another's at once.
func (l *loop) forget(s *socket) {
	l.mu.Lock()
	delete(l.sockets, int32(s.fd))
	l.mu.Unlock()
}

// end lets the loop end a joint whose session was aborted.
func (l *loop) end(j *joint) {
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.ending = append(l.ending, j)
		l.signal()
	}
	l.mu.Unlock()
	if closed {
		j.finish()
	}
}

// socket is one end of a session in a loop. What can be done with it is known from edges: true until the kernel says
// otherwise.
type socket struct {
	joint              *joint
	fd                 int // -1 when it is closed
	peer               net.Addr
	readable, writable bool
	// its stream has an end or an urgent mark: that a read brought less than it could does not prove that nothing is
	// behind
	uneven   bool
	broken   bool // it failed: what it has brought before may be read, and that is all
	finished bool // our half is closed
	sealed   bool // it carries records
}

func (s *socket) note(events uint32) {
	const gone = unix.EPOLLHUP | unix.EPOLLERR
	s.readable = s.readable || events&(unix.EPOLLIN|unix.EPOLLPRI|unix.EPOLLRDHUP|gone) != 0
	s.writable = s.writable || events&(unix.EPOLLOUT|gone) != 0
	s.uneven = s.uneven || events&(unix.EPOLLPRI|unix.EPOLLRDHUP|gone) != 0
	s.broken = s.broken || events&unix.EPOLLERR != 0
}

// detach takes a socket out of package net, and with it out of the runtime's poller.
func detach(c *net.TCPConn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(controlErr, err); err != nil {
		return -1, err
	}
	return fd, c.Close()
}

// read and write are the system calls, without waiting: 0 and no error is the end of a stream, EAGAIN not yet.
func (s *socket) read(p []byte) (int, error)  { return uninterrupted(unix.Read, s.fd, p) }
func (s *socket) write(p []byte) (int, error) { return uninterrupted(unix.Write, s.fd, p) }

func uninterrupted(call func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := call(fd, p)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// close ends the socket: in order, or so that its peer sees an error. An app must see a reset. A proxy knows a cut
// stream by the missing close_notify, so towards one there is no reset where nothing is under way that must not arrive
// any more: conntrack keeps what a server has reset for ten seconds, in which the client's pod refuses a connection
// that happens to get the same port (the chain guard of init).
func (s *socket) close(orderly bool) {
	if s.fd < 0 {
		return
	}
	if !orderly && !(s.sealed && s.settled()) {
		_ = unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	_ = unix.Close(s.fd)
	s.fd = -1
}

// settled tells whether the peer has acknowledged all that was sent (SIOCOUTQ, tcp(7)).
func (s *socket) settled() bool {
	n, err := unix.IoctlGetInt(s.fd, unix.TIOCOUTQ)
	return err == nil && n == 0
}

func (s *socket) vanished() bool { return s.fd >= 0 && listen.VanishedSocket(s.fd) }
