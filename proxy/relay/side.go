// Package relay moves bytes between the two sides of a proxied connection: the end of one direction is passed on without ending the
// other (half-close), an abortive end is passed on as one, and a pair on which nothing moves for long is ended.
package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// Raw is a TCP connection below TLS that remembers whether the TCP stream ended. crypto/tls reports a stream that ends without
// close_notify as an orderly end, which would let anyone on the path cut a message short unnoticed (RFC 8446, section 6.1).
type Raw struct {
	*net.TCPConn
	prefix []byte
	ended  atomic.Bool
	left   int // how much may be read before the handshake is done; after it there is no bound
	open   bool
}

// maxHandshake bounds what a stranger can make us hold: crypto/tls alone would take a certificate of 256 KiB. Three certificates of RSA-4096 are 6 KiB.
const maxHandshake = 32 << 10

// NewRaw puts prefix, which was read from c before, in front of what c still brings.
func NewRaw(c *net.TCPConn, prefix []byte) *Raw {
	return &Raw{TCPConn: c, prefix: prefix, left: maxHandshake}
}

// Read implements net.Conn. It is called by one goroutine at a time, as crypto/tls does.
func (r *Raw) Read(p []byte) (n int, err error) {
	if r.open {
		return r.read(p)
	}
	if r.left == 0 {
		return 0, telemetry.ErrLargeHandshake
	}
	n, err = r.read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}

func (r *Raw) read(p []byte) (int, error) {
	if len(r.prefix) > 0 {
		n := copy(p, r.prefix)
		r.prefix = r.prefix[n:]
		return n, nil
	}
	n, err := r.TCPConn.Read(p)
	if errors.Is(err, io.EOF) {
		r.ended.Store(true)
	}
	return n, err
}

// Side is one end of a relayed connection: plain TCP, or TLS above it.
type Side struct {
	tcp *net.TCPConn
	tls *tls.Conn // nil for plain TCP
	raw *Raw      // below tls

	finished atomic.Bool // closeWrite was called
}

// Plain is a side without TLS.
func Plain(c *net.TCPConn) *Side { return &Side{tcp: c} }

// Secured is a side with TLS, whose handshake over raw is done.
func Secured(c *tls.Conn, raw *Raw) *Side {
	raw.open = true
	return &Side{tcp: raw.TCPConn, tls: c, raw: raw}
}

func (s *Side) read(p []byte) (int, error) {
	if s.tls == nil {
		n, err := s.tcp.Read(p)
		if err == io.EOF {
			err = s.judgeEnd()
		}
		return n, err
	}
	n, err := s.tls.Read(p)
	if err == io.EOF && s.raw.ended.Load() {
		err = errTruncated
	}
	return n, err
}

// judgeEnd is io.EOF, or ECONNRESET where the other direction has got the error of a reset before this one, and so the reset reads as an end.
func (s *Side) judgeEnd() error {
	if !s.finished.Load() && listen.WasReset(s.tcp) {
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
	if s.tls != nil {
		_ = s.tls.Close()
		return
	}
	_ = s.tcp.Close()
}

// abort ends a side so that its peer sees a reset, and without a word of TLS: what was sent is not known to be complete.
func (s *Side) abort() { listen.Reset(s.tcp) }
