package relay

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
)

// rawConn is a TCP connection below a TLS handshake. It hands crypto/tls no byte behind the record that it reads, so
// somebody else can read the records behind the handshake. It remembers whether the TCP stream ended: crypto/tls
// reports a stream that ends without close_notify as an orderly end, which would let anyone on the path cut a message
// short unnoticed (RFC 8446, section 6.1).
type rawConn struct {
	*net.TCPConn
	ahead []byte // was read, and not handed out
	ended atomic.Bool

	head     [headerSize]byte // of the record that is being handed out
	headDone int              // bytes of head that were handed out
	bodyLeft int              // bytes behind head that were not
	left     int              // how much may be handed out before the handshake is done
	done     bool             // the handshake; crypto/tls gets whatever is read now
}

const (
	headerSize = 5
	// maxHandshake bounds the memory that an unauthenticated peer can use: crypto/tls alone would take a certificate of
	// 256 KiB. Three certificates of RSA-4096 are 6 KiB.
	maxHandshake = 32 << 10
	readAhead    = 4 << 10
)

// ErrLargeHandshake ends a handshake that is larger than any with certificates of a mesh.
var ErrLargeHandshake = errors.New("the handshake is too large")

// Read implements net.Conn. One goroutine at a time calls it, as crypto/tls does.
func (r *rawConn) Read(p []byte) (int, error) {
	if len(r.ahead) == 0 {
		if r.done {
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
	if !r.done {
		if r.left == 0 {
			return 0, ErrLargeHandshake
		}
		n = r.withinRecord(min(n, r.left))
		r.left -= n
	}
	copy(p, r.ahead[:n])
	r.ahead = r.ahead[n:]
	return n, nil
}

func (r *rawConn) fill(p []byte) (int, error) {
	n, err := r.TCPConn.Read(p)
	if errors.Is(err, io.EOF) {
		r.ended.Store(true)
	}
	return n, err
}

// withinRecord is how many of the next n bytes belong to the header, or to the body, of one record.
func (r *rawConn) withinRecord(n int) int {
	if r.bodyLeft == 0 {
		n = copy(r.head[r.headDone:], r.ahead[:n])
		if r.headDone += n; r.headDone == headerSize {
			r.headDone, r.bodyLeft = 0, int(binary.BigEndian.Uint16(r.head[3:]))
		}
		return n
	}
	n = min(n, r.bodyLeft)
	r.bodyLeft -= n
	return n
}
