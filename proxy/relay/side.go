// Package relay moves bytes between the two sides of a proxied connection: the end of one direction is passed on
// without ending the other (half-close), an abortive end is passed on as one, and a pair on which nothing moves for
// long is ended.
package relay

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/record"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// Raw is a TCP connection below a TLS handshake. It hands crypto/tls no byte behind the record that it reads, so that
// the records behind the handshake can be read by somebody else; and it remembers whether the TCP stream ended:
// crypto/tls reports a stream that ends without close_notify as an orderly end, which would let anyone on the path cut
// a message short unnoticed (RFC 8446, section 6.1).
type Raw struct {
	*net.TCPConn
	ahead []byte // was read, and not handed out
	ended atomic.Bool

	record [recordHeader]byte // header of the record that is being handed out
	header int                // bytes of it that were handed out
	body   int                // bytes behind it that were not
	left   int                // how much may be handed out before the handshake is done
	open   bool               // it is done: what is read now is crypto/tls's, whole
}

const (
	recordHeader = 5
	// maxHandshake bounds what a stranger can make us hold: crypto/tls alone would take a certificate of 256 KiB. Three
	// certificates of RSA-4096 are 6 KiB.
	maxHandshake = 32 << 10
	readAhead    = 4 << 10
)

// NewRaw puts prefix, which was read from c before, in front of what c still brings.
func NewRaw(c *net.TCPConn, prefix []byte) *Raw {
	return &Raw{TCPConn: c, ahead: prefix, left: maxHandshake}
}

// Read implements net.Conn. It is called by one goroutine at a time, as crypto/tls does.
func (r *Raw) Read(p []byte) (int, error) {
	if len(r.ahead) == 0 {
		if r.open {
			return r.fill(p)
		}
		buffer := make([]byte, readAhead)
		n, err := r.fill(buffer)
		if n == 0 {
			return 0, err
		}
		r.ahead = buffer[:n]
	}
	n := min(len(p), len(r.ahead))
	if !r.open {
		if r.left == 0 {
			return 0, telemetry.ErrLargeHandshake
		}
		n = r.withinRecord(min(n, r.left))
		r.left -= n
	}
	copy(p, r.ahead[:n])
	r.ahead = r.ahead[n:]
	return n, nil
}

func (r *Raw) fill(p []byte) (int, error) {
	n, err := r.TCPConn.Read(p)
	if errors.Is(err, io.EOF) {
		r.ended.Store(true)
	}
	return n, err
}

// withinRecord is how many of the next n bytes belong to the header, or to the body, of one record.
func (r *Raw) withinRecord(n int) int {
	if r.body == 0 {
		n = copy(r.record[r.header:], r.ahead[:n])
		if r.header += n; r.header == recordHeader {
			r.header, r.body = 0, int(binary.BigEndian.Uint16(r.record[3:]))
		}
		return n
	}
	n = min(n, r.body)
	r.body -= n
	return n
}

// takeAhead is what arrived with the end of the handshake.
func (r *Raw) takeAhead() []byte {
	ahead := r.ahead
	r.ahead = nil
	return ahead
}

// Side is one end of a relayed connection: plain TCP, or TLS above it. A session with a side that has records is the
// engine's, from its sockets up; what reads and writes here is for the others.
type Side struct {
	tcp *net.TCPConn
	raw *Raw // below TLS

	// At most one is set: above plain TCP there is none.
	records *record.Conn
	tls     *tls.Conn // in FIPS 140-3 mode: the module wants to make the nonces itself

	finished atomic.Bool // closeWrite was called
}

// Plain is a side without TLS.
func Plain(c *net.TCPConn) *Side { return &Side{tcp: c} }

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

// judgeEnd is io.EOF, or ECONNRESET where the other direction has got the error of a reset before this one, and so the
// reset reads as an end.
func (s *Side) judgeEnd() error {
	if listen.WasReset(s.tcp) && !s.finished.Load() {
		// in this order: the other direction may close our half meanwhile, and says so before it does
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

// abort ends a side so that its peer sees a reset, and without a word of TLS: what was sent is not known to be
// complete.
func (s *Side) abort() { listen.Reset(s.tcp) }
