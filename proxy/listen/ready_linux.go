package listen

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// readiness tells when something arrives on connections that wait. It costs no goroutine for each of them, and no
// thread: its own descriptor is in the poller of the runtime.
type readiness struct {
	file *os.File
	raw  syscall.RawConn
	fd   int

	mu      sync.Mutex
	next    int32
	watched map[int32]*waiting
}

func newReadiness() (*readiness, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // the poller of the runtime takes no other
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	r := &readiness{file: os.NewFile(uintptr(fd), "epoll"), fd: fd, watched: map[int32]*waiting{}}
	if r.raw, err = r.file.SyscallConn(); err != nil {
		r.file.Close()
		return nil, err
	}
	return r, nil
}

// watch waits for the first byte of w, or its end. False: the kernel has no room for that, and w is to be taken for
// ready.
func (r *readiness) watch(w *waiting) bool {
	r.mu.Lock()
	r.next++
	for r.watched[r.next] != nil {
		r.next++
	}
	id := r.next
	r.watched[id], w.watch = w, id
	r.mu.Unlock()
	if r.control(w, unix.EPOLL_CTL_ADD, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: id}) == nil {
		return true
	}
	r.mu.Lock()
	delete(r.watched, id)
	r.mu.Unlock()
	return false
}

// forget ends that.
func (r *readiness) forget(w *waiting) {
	_ = r.control(w, unix.EPOLL_CTL_DEL, nil)
	r.mu.Lock()
	delete(r.watched, w.watch)
	r.mu.Unlock()
}

func (r *readiness) control(w *waiting, op int, event *unix.EpollEvent) error {
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) { err = unix.EpollCtl(r.fd, op, int(fd), event) })
	return errors.Join(controlErr, err)
}

// run calls spoke with what has become ready, until close.
func (r *readiness) run(spoke func([]*waiting)) {
	events := make([]unix.EpollEvent, 256)
	for {
		n := 0
		err := r.raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err != nil { // closed
			return
		}
		var ready []*waiting
		r.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			if w := r.watched[e.Fd]; w != nil {
				ready = append(ready, w)
			}
		}
		r.mu.Unlock()
		spoke(ready)
	}
}

func (r *readiness) close() { r.file.Close() }
