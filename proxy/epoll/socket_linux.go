package epoll

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// Socket is a connected socket in a loop. What it can do is known from edges: true until the kernel says otherwise.
// Only the loop's goroutine uses it.
type Socket struct {
	FD                 int // -1 if there is none
	Readable, Writable bool
	// Uneven: the stream has an end or an urgent mark. A short read then does not prove that nothing is behind.
	Uneven bool
	// Broken: the socket failed. What it has brought before can be read, and that is all.
	Broken bool

	task *Task
}

func (s *Socket) note(events uint32) {
	const gone = unix.EPOLLHUP | unix.EPOLLERR
	s.Readable = s.Readable || events&(unix.EPOLLIN|unix.EPOLLPRI|unix.EPOLLRDHUP|gone) != 0
	s.Writable = s.Writable || events&(unix.EPOLLOUT|gone) != 0
	s.Uneven = s.Uneven || events&(unix.EPOLLPRI|unix.EPOLLRDHUP|gone) != 0
	s.Broken = s.Broken || events&unix.EPOLLERR != 0
}

// Detach takes a socket out of package net, and so out of the runtime's poller. After success c is closed, and the
// descriptor is the caller's.
func Detach(c *net.TCPConn) (fd int, err error) {
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

// Read does not wait: 0 without an error is the end of the stream, EAGAIN means not yet.
func (s *Socket) Read(p []byte) (int, error) { return uninterrupted(unix.Read, s.FD, p) }

// Write does not wait: EAGAIN means not yet.
func (s *Socket) Write(p []byte) (int, error) { return uninterrupted(unix.Write, s.FD, p) }

func uninterrupted(call func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := call(fd, p)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// Settled tells whether the peer has acknowledged all that was sent (SIOCOUTQ, tcp(7)).
func (s *Socket) Settled() bool {
	n, err := unix.IoctlGetInt(s.FD, unix.TIOCOUTQ)
	return err == nil && n == 0
}

// HasRoom asks the kernel whether a write would be taken. It also makes sure that an edge tells when one would be.
func (s *Socket) HasRoom() bool {
	p := [1]unix.PollFd{{Fd: int32(s.FD), Events: unix.POLLOUT}}
	n, err := unix.Poll(p[:], 0)
	return err != nil || n > 0 // an error of the socket is for the write to tell
}

// Close closes the socket once. With reset the peer sees an error.
func (s *Socket) Close(reset bool) {
	if s.FD < 0 {
		return
	}
	if reset {
		_ = unix.SetsockoptLinger(s.FD, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	_ = unix.Close(s.FD)
	s.FD = -1
}
