package epoll

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// handler counts its turns.
type handler struct {
	turns  atomic.Int32
	failed chan error
}

func (h *handler) Turn() bool     { h.turns.Add(1); return false }
func (h *handler) Fail(err error) { h.failed <- err }

// running is a loop with one socket, whose peer is returned.
func running(t *testing.T) (l *Loop, h *handler, task *Task, peer net.Conn, ended chan error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if peer, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	c, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := Detach(c.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	s := &Socket{FD: fd}
	t.Cleanup(func() { s.Close(false) })
	if l, err = New(); err != nil {
		t.Fatal(err)
	}
	h, ended = &handler{failed: make(chan error, 1)}, make(chan error, 1)
	go func() { ended <- l.Run() }()
	task = &Task{Handler: h}
	if err := l.Watch(s, task); err != nil {
		t.Fatal(err)
	}
	return l, h, task, peer, ended
}

func receive(t *testing.T, c chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("nothing happens")
		return nil
	}
}

// TestFailingLoop: epoll_wait fails, since its descriptor is another file now. The loop must not panic: it fails its
// connections, ends with the error, and takes no new ones.
func TestFailingLoop(t *testing.T) {
	l, h, task, peer, ended := running(t)
	if err := unix.Dup3(l.wake, l.epoll, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	_, _ = peer.Write([]byte("x")) // the system call that is under way still sees the old file
	for _, c := range []chan error{h.failed, ended} {
		if err := receive(t, c); !errors.Is(err, unix.EINVAL) {
			t.Errorf("got %v, want EINVAL", err)
		}
	}
	if err := l.Watch(&Socket{FD: -1}, task); !errors.Is(err, unix.EINVAL) || l.Wake(task) {
		t.Errorf("a loop that has failed takes another socket: %v", err)
	}
}

func TestStop(t *testing.T) {
	l, h, task, _, ended := running(t)
	if !l.Wake(task) {
		t.Error("a loop that runs takes no task")
	}
	for deadline := time.Now().Add(10 * time.Second); h.turns.Load() == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	stopped := errors.New("stopped")
	l.Stop(stopped)
	l.Stop(errors.New("again"))
	if err := receive(t, ended); err != nil {
		t.Errorf("Run returns %v", err)
	}
	if err := receive(t, h.failed); err != stopped || h.turns.Load() == 0 {
		t.Errorf("failed with %v after %d turns", err, h.turns.Load())
	}
}
