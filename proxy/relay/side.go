package relay

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/meshless-dev/meshless/proxy/record"
)

// Side is one end of a session: plain TCP, or TLS above it. The engine moves a session with a side that has records.
// The methods that read and write are for the other sessions.
type Side struct {
	tcp     *net.TCPConn
	raw     *rawConn     // below TLS; nil without TLS
	records *record.Conn // nil without TLS, and with Standard records
	stream  stream       // what the app sends and gets; nil where records is set

	finished atomic.Bool // closeWrite was called
}

// stream is a *net.TCPConn or, with Standard records, a *tls.Conn.
type stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Plain is a side without TLS.
func Plain(c *net.TCPConn) *Side { return &Side{tcp: c, stream: c} }

func (s *Side) read(p []byte) (int, error) {
	n, err := s.stream.Read(p)
	if err == io.EOF {
		err = s.verifyEnd()
	}
	return n, err
}

// verifyEnd is io.EOF after an orderly end. With TLS the end of the TCP stream alone is none. Without it, a reset is
// none: the kernel tells the error of a reset once, and where a write has got it, the read sees an orderly end.
func (s *Side) verifyEnd() error {
	switch {
	case s.raw != nil && s.raw.ended.Load():
		return ErrTruncated
	case s.raw == nil && wasReset(s.tcp) && !s.finished.Load():
		// in this order: the other direction may close our half meanwhile, and it sets finished before it does
		return syscall.ECONNRESET
	}
	return io.EOF
}

func (s *Side) closeWrite() error {
	s.finished.Store(true)
	err := s.stream.CloseWrite()
	if s.raw != nil {
		s.raw.shut.Store(true)
	}
	return err
}

// abort ends a side so that its peer sees a reset. TLS says nothing more: what was sent may not be complete.
func (s *Side) abort() {
	_ = s.tcp.SetLinger(0)
	_ = s.tcp.Close()
}
