package main

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The first byte of a connection says what the backend does with the rest.
const (
	modeEcho   = 'e' // sends everything back
	modeSink   = 's' // drops everything
	modeSource = 'd' // sends until the connection ends
)

// backend serves every connection on one thread, with as few system calls as it can: it shares the cores with what is
// measured.
type backend struct {
	ep, listener, block int
	conns               map[int]*served
	sunk                atomic.Int64 // bytes dropped
	buffer              [64 << 10]byte
}

// served is one connection of the backend.
type served struct {
	mode    byte   // 0 before the first byte
	pending []byte // echo: what the socket has not taken yet; nothing is read meanwhile
}

// runBackend serves at the address until in ends; each line of in is answered by the number of bytes dropped so far.
// The first line of out says that it listens.
func runBackend(at netip.AddrPort, in io.Reader, out io.Writer) error {
	b := &backend{conns: map[int]*served{}}
	if err := b.listen(at); err != nil {
		return err
	}
	fmt.Fprintln(out, "listening")
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		failed <- b.loop()
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(in); lines.Scan(); {
			fmt.Fprintln(out, b.sunk.Load())
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-ended:
		return nil
	}
}

func (b *backend) listen(at netip.AddrPort) (err error) {
	if b.block, err = memory(); err != nil {
		return err
	}
	if b.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if b.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	_ = unix.SetsockoptInt(b.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err = unix.Bind(b.listener, sockaddr(at)); err == nil {
		err = unix.Listen(b.listener, 4096)
	}
	if err == nil {
		err = watch(b.ep, unix.EPOLL_CTL_ADD, b.listener, unix.EPOLLIN)
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", at, err)
	}
	return nil
}

func (b *backend) loop() error {
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(b.ep, events, -1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			fd := int(e.Fd)
			if fd == b.listener {
				b.accept()
			} else if c := b.conns[fd]; c != nil && !b.serve(fd, c, e.Events) {
				delete(b.conns, fd)
				unix.Close(fd)
			}
		}
	}
}

func (b *backend) accept() {
	for range 64 {
		fd, _, err := unix.Accept4(b.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if watch(b.ep, unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) != nil {
			unix.Close(fd)
			continue
		}
		b.conns[fd] = &served{}
	}
}

// serve does what is due; false closes the connection.
func (b *backend) serve(fd int, c *served, events uint32) bool {
	switch {
	case events&unix.EPOLLOUT != 0 && c.mode == modeSource:
		_, _, err := pour(fd, b.block)
		return err == nil
	case events&unix.EPOLLOUT != 0:
		return b.echo(fd, c, c.pending)
	case c.mode == modeSink:
		n, end, err := drain(fd)
		b.sunk.Add(int64(n))
		return err == nil && !end
	}
	n, err := receive(fd, b.buffer[:])
	if n < 0 {
		return true
	}
	if err != nil || n == 0 {
		return false
	}
	data := b.buffer[:n]
	if c.mode == 0 {
		c.mode, data = data[0], data[1:]
	}
	switch c.mode {
	case modeSource:
		return watch(b.ep, unix.EPOLL_CTL_MOD, fd, unix.EPOLLOUT) == nil
	case modeSink:
		b.sunk.Add(int64(len(data)))
		return true
	case modeEcho:
		return len(data) == 0 || b.echo(fd, c, data)
	}
	return false
}

// echo sends data, and keeps what the socket does not take.
func (b *backend) echo(fd int, c *served, data []byte) bool {
	n, err := send(fd, data)
	if err != nil {
		return false
	}
	waited := len(c.pending) > 0
	c.pending = append([]byte(nil), data[n:]...)
	switch waits := len(c.pending) > 0; {
	case waits && !waited:
		return watch(b.ep, unix.EPOLL_CTL_MOD, fd, unix.EPOLLOUT) == nil
	case waited && !waits:
		return watch(b.ep, unix.EPOLL_CTL_MOD, fd, unix.EPOLLIN) == nil
	}
	return true
}
