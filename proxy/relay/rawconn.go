package relay

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// rawConn is a TCP connection below a TLS handshake. It hands crypto/tls no byte behind the record that it reads, so
// somebody else can read the records behind the handshake. It remembers whether the TCP stream ended: crypto/tls
// reports a stream that ends without close_notify as an orderly end, which would let anyone on the path cut a message
// short unnoticed (RFC 8446, section 6.1).
type rawConn struct {
	*net.TCPConn
	ahead []byte // was read, and not handed out

	gate     Gate          // of the handshake, which is inside but while it waits here
	patience time.Duration // for how long the handshake may still wait here; once it is done, no deadline is set
	ended    atomic.Bool
	shut     atomic.Bool // close_notify was written

	head     [headerSize]byte // of the record that is being handed out
	headDone int              // bytes of head that were handed out
	bodyLeft int              // bytes behind head that were not
	left     allowance        // before the handshake is done
	done     bool             // the handshake; crypto/tls gets whatever is read now
}

// allowance is how many bytes of records a peer may send in a handshake. It bounds the memory and the work that an
// unauthenticated peer can cause: crypto/tls alone would take, and parse, a certificate of 256 KiB.
type allowance struct {
	hello  int // before there are keys
	flight int // encrypted: the peer's certificates and what belongs to them
}

// allowanceFor is more than peers of a mesh send. A hello with a key share of ML-KEM is 2 KiB, and there are two at
// most, or one in records of a byte each. Three certificates of RSA-4096 are 6 KiB, a signature of such a key and the
// rest less than one. A server adds the names of the authorities that it trusts; and one outside the mesh, which may
// have a long chain, must be able to prove by it that it is outside.
func allowanceFor(role Role) allowance {
	if role == Client {
		return allowance{hello: 8 << 10, flight: 24 << 10}
	}
	return allowance{hello: 12 << 10, flight: 9 << 10}
}

// Content types of records (RFC 8446, section 5.1).
const (
	typeFirst           = 20
	typeApplicationData = 23
	typeLast            = 24
)

// take counts a record by its header.
func (a *allowance) take(head [headerSize]byte) error {
	size := headerSize + int(binary.BigEndian.Uint16(head[3:]))
	switch kind := head[0]; {
	case kind == typeApplicationData:
		a.flight -= size
	case kind >= typeFirst && kind <= typeLast:
		a.hello -= size
	default: // no TLS, which crypto/tls says better
	}
	if a.hello < 0 || a.flight < 0 {
		return ErrLargeHandshake
	}
	return nil
}

const (
	headerSize = 5
	readAhead  = 4 << 10
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
		var err error
		if n, err = r.withinRecord(n); err != nil {
			return 0, err
		}
	}
	copy(p, r.ahead[:n])
	r.ahead = r.ahead[n:]
	return n, nil
}

// Write implements net.Conn. What crypto/tls writes behind close_notify goes nowhere, as if it had been sent: it still
// answers a peer that asks for new keys, and if that fails it does not take the peer's new keys either, so that all
// that follows of the peer is lost. Nobody misses the answer: no data of ours follows it.
//
// A peer that does not read lets a handshake wait.
func (r *rawConn) Write(p []byte) (n int, err error) {
	if r.shut.Load() {
		return len(p), nil
	}
	r.wait(func() { n, err = r.TCPConn.Write(p) })
	return n, err
}

// SetWriteDeadline implements net.Conn, by ignoring what crypto/tls sets: five seconds for close_notify, which a slow
// peer may need, and none for what comes behind it.
func (r *rawConn) SetWriteDeadline(time.Time) error { return nil }

func (r *rawConn) fill(p []byte) (n int, err error) {
	r.wait(func() { n, err = r.TCPConn.Read(p) })
	if errors.Is(err, io.EOF) {
		r.ended.Store(true)
	}
	return n, err
}

// enter begins a handshake, which may wait so long for its peer.
func (r *rawConn) enter(g Gate, patience time.Duration) {
	r.gate, r.patience = g, max(patience, 1)
	g.enter()
}

// leave ends it.
func (r *rawConn) leave() {
	r.gate.leave()
	r.gate, r.patience = nil, 0
}

// wait leaves the gate for the time of a call that waits for the peer.
func (r *rawConn) wait(call func()) {
	if r.patience == 0 {
		call()
		return
	}
	r.gate.leave()
	began := time.Now()
	_ = r.SetDeadline(began.Add(r.patience))
	call()
	r.patience = max(r.patience-time.Since(began), 1)
	r.gate.enter()
}

// withinRecord is how many of the next n bytes belong to the header, or to the body, of one record. A
// record that is not allowed is an error as soon as its header is there.
func (r *rawConn) withinRecord(n int) (int, error) {
	if r.bodyLeft == 0 {
		n = copy(r.head[r.headDone:], r.ahead[:n])
		if r.headDone += n; r.headDone == headerSize {
			r.headDone, r.bodyLeft = 0, int(binary.BigEndian.Uint16(r.head[3:]))
			return n, r.left.take(r.head)
		}
		return n, nil
	}
	n = min(n, r.bodyLeft)
	r.bodyLeft -= n
	return n, nil
}
