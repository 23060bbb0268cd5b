package epoll

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Handler serves the sockets of one connection. The loop's goroutine calls it, one method at a time.
type Handler interface {
	// Turn does a bounded piece of work. It tells whether there may be more to do at once.
	Turn() (more bool)
	// Fail ends the connection, since the loop has ended. It may be called once for each socket.
	Fail(err error)
}

// Task is the place of a handler in its loop.
type Task struct {
	Handler Handler
	queued  bool
}

// Loop serves sockets in one goroutine. Make it with New, start Run once.
type Loop struct {
	epoll, wake, timer int // descriptors; wake is an eventfd, timer a timerfd

	mu      sync.Mutex
	sockets map[int32]*Socket // by descriptor
	woken   []*Task           // by Wake, for the next round
	stop    error             // why the loop has to end
	closed  bool              // the descriptors are closed

	// of the loop's goroutine alone
	ready []*Task
	spare []*Task // the memory of the previous round
	ring  func()  // at the alarm; nil if none is set
	due   bool    // the alarm has to ring in this round
}

// New makes a loop.
func New() (*Loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		_, _ = unix.Close(epoll), unix.Close(wake)
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	l := &Loop{epoll: epoll, wake: wake, timer: timer, sockets: map[int32]*Socket{}}
	for _, fd := range []int{wake, timer} {
		if err := l.add(fd, unix.EPOLLIN); err != nil {
			l.shut(err)
			return nil, err
		}
	}
	return l, nil
}

func (l *Loop) add(fd int, events uint32) error {
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// maxEvents is how many ready sockets one system call reports.
const maxEvents = 128

// yieldInterval is less than 10 ms. After that time the runtime's monitor interrupts a goroutine, even if no other one
// waits.
const yieldInterval = 4 * time.Millisecond

// Run serves until Stop, and then returns nil. An error of the kernel ends it, too, and is returned. At its end it
// fails the handlers of all sockets that are left.
func (l *Loop) Run() error {
	events := make([]unix.EpollEvent, maxEvents)
	yielded := time.Now()
	for {
		timeout := -1
		if len(l.ready) > 0 {
			timeout = 0
		}
		n, err := unix.EpollWait(l.epoll, events, timeout)
		if err != nil && err != unix.EINTR {
			err = fmt.Errorf("epoll_wait: %w", err)
			l.shut(err)
			return err
		}
		if stop := l.note(events[:max(n, 0)]); stop != nil {
			l.shut(stop)
			return nil
		}
		l.turn()
		if l.due {
			l.due = false
			l.ring()
		}
		if time.Since(yielded) > yieldInterval {
			runtime.Gosched()
			yielded = time.Now()
		}
	}
}

// Alarm lets the loop call ring once, after d. A loop has one alarm; setting it again moves it. Only the loop's
// goroutine may call this: in a turn, or as the last one rings. The clock of a timerfd is set once for an alarm; a
// timeout of epoll_wait would have it set for every message.
func (l *Loop) Alarm(d time.Duration, ring func()) {
	l.ring = ring
	_ = unix.TimerfdSettime(l.timer, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, d.Nanoseconds()))}, nil)
}

// note queues the tasks of what became ready, and those that were woken.
func (l *Loop) note(events []unix.EpollEvent) (stop error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		if e.Fd == int32(l.wake) {
			var count [8]byte
			_, _ = unix.Read(l.wake, count[:])
			continue
		}
		if e.Fd == int32(l.timer) {
			var count [8]byte
			_, err := unix.Read(l.timer, count[:])
			l.due = err == nil
			continue
		}
		if s := l.sockets[e.Fd]; s != nil {
			s.note(e.Events)
			l.queue(s.task)
		}
	}
	for _, t := range l.woken {
		l.queue(t)
	}
	l.woken = l.woken[:0]
	return l.stop
}

func (l *Loop) queue(t *Task) {
	if !t.queued {
		t.queued = true
		l.ready = append(l.ready, t)
	}
}

// turn gives each ready task one turn. A task that could do more gets another one in the next round.
func (l *Loop) turn() {
	round := l.ready
	l.ready = l.spare[:0]
	for i, t := range round {
		round[i] = nil
		t.queued = false
		if t.Handler.Turn() {
			l.queue(t)
		}
	}
	l.spare = round
}

// shut closes the descriptors, and fails what is left.
func (l *Loop) shut(err error) {
	l.mu.Lock()
	l.closed, l.stop = true, err
	left := slices.Collect(maps.Values(l.sockets))
	_ = unix.Close(l.epoll)
	_ = unix.Close(l.wake)
	_ = unix.Close(l.timer)
	l.mu.Unlock()
	for _, s := range left {
		s.task.Handler.Fail(err)
	}
}

// Stop lets Run end, and with it every connection with err. It does not wait. Only the first call counts.
func (l *Loop) Stop(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stop == nil {
		l.stop = err
		l.signal()
	}
}

// Wake gives t a turn soon. It is false if the loop has ended. Any goroutine may call it.
func (l *Loop) Wake(t *Task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.woken = append(l.woken, t)
	l.signal()
	return true
}

// signal interrupts the system call of Run. Its caller holds the lock, so the descriptor is open.
func (l *Loop) signal() {
	one := [8]byte{1} // not zero in any byte order, and that is all that counts
	_, _ = unix.Write(l.wake, one[:])
}

// Watch adds a socket, which t serves from now on: it may be served before Watch returns. Any goroutine may call it.
// The kernel reports changes alone (EPOLLET): after a read or a write that took less than it could, no system call is
// needed to hear of the next one.
func (l *Loop) Watch(s *Socket, t *Task) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.stop
	}
	s.task = t
	l.sockets[int32(s.FD)] = s
	const interest = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff
	return l.add(s.FD, interest)
}

// Move lets t serve the descriptor of from, by another Socket. The loop's goroutine alone may call it. It is false if
// the loop has ended; then from still has its descriptor.
func (l *Loop) Move(from, to *Socket, t *Task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	*to = *from
	to.task, from.FD = t, -1
	l.sockets[int32(to.FD)] = to
	return true
}

// Forget removes a socket. It has to be called before the socket is closed: another one may get its number at once.
func (l *Loop) Forget(s *Socket) {
	l.mu.Lock()
	delete(l.sockets, int32(s.FD))
	l.mu.Unlock()
}
