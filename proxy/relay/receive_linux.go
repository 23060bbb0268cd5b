package relay

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// receiver reads a TCP connection without holding a buffer while there is nothing to read: a connection that is idle, as most are, costs no memory for it.
type receiver struct {
	raw  syscall.RawConn
	into func() []byte // takes a buffer
	idle func()        // gives it back
	try  func(fd uintptr) bool
	n    int
	err  error
}

func newReceiver(c *net.TCPConn, into func() []byte, idle func()) (*receiver, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &receiver{raw: raw, into: into, idle: idle}
	r.try = r.read // one closure for the life of the connection
	return r, nil
}

// receive waits for data, and reads once. Its end is io.EOF.
func (r *receiver) receive() (int, error) {
	if err := r.raw.Read(r.try); err != nil {
		return 0, err
	}
	return r.n, r.err
}

// read tries to read; false waits until the socket is readable.
func (r *receiver) read(fd uintptr) bool {
	buffer := r.into()
	for {
		r.n, r.err = unix.Read(int(fd), buffer)
		if r.err != unix.EINTR {
			break
		}
	}
	switch {
	case r.err == unix.EAGAIN:
		r.idle()
		return false
	case r.err != nil:
		r.n = 0
	case r.n == 0:
		r.err = io.EOF
	}
	return true
}
