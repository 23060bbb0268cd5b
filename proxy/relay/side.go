package relay

import (
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/meshless-dev/meshless/proxy/record"
)

// Side is one end of a session: plain TCP, or TLS above it. The engine moves a session with a side that has records.
// The methods that read and write are for the other sessions.
type Side struct {
	tcp *net.TCPConn
	raw *rawConn // below TLS

	// At most one is set: above plain TCP there is none.
	records *record.Conn
	tls     *tls.Conn // in FIPS 140-3 mode: the module has to make the nonces itself

	finished atomic.Bool // closeWrite was called
}

// Plain is a side without TLS.
func Plain(c *net.TCPConn) *Side { return &Side{tcp: c} }

func (s *Side) read(p []byte) (int, error) {
	if s.tls == nil {
		n, err := s.tcp.Read(p)
		if err == io.EOF {
			err = s.verifyEnd()
		}
		return n, err
	}
	n, err := s.tls.Read(p)
	if err == io.EOF && s.raw.ended.Load() {
		err = ErrTruncated
	}
	return n, err
}

// verifyEnd is io.EOF, or ECONNRESET after a reset. The kernel tells the error of a reset once. Where a write has got
// it, the read sees an orderly end.
func (s *Side) verifyEnd() error {
	if wasReset(s.tcp) && !s.finished.Load() {
		// in this order: the other direction may close our half meanwhile, and it sets finished before it does
		return syscall.ECONNRESET
	}
	return io.EOF
}

func (s *Side) write(p []byte) (int, error) {
	if s.tls == nil {
		return s.tcp.Write(p)
	}
	return s.tls.Write(p)
}

func (s *Side) closeWrite() error {
	s.finished.Store(true)
	if s.tls == nil {
		return s.tcp.CloseWrite()
	}
	return s.tls.CloseWrite()
}

// close ends a side in order; both directions are done.
func (s *Side) close() {
	if s.tls == nil {
		_ = s.tcp.Close()
		return
	}
	_ = s.tls.Close()
}

// abort ends a side so that its peer sees a reset. TLS says nothing more: what was sent may not be complete.
func (s *Side) abort() {
	_ = s.tcp.SetLinger(0)
	_ = s.tcp.Close()
}
