package relay

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

// A connection lingers after our fatal alert: it is shut for writing, and what the peer still sends is discarded, for
// so long and so much. If it were closed at once, a peer that is writing would see a reset before it reads the alert.
// There are few places, so that nobody can fill the memory by it.
const (
	lingerTime  = time.Second
	lingerBytes = 1 << 20
	maxLingers  = 64
)

// lingers counts the sockets that linger.
type lingers struct{ n atomic.Int32 }

func (l *lingers) acquire() bool {
	if l.n.Add(1) > maxLingers {
		l.n.Add(-1)
		return false
	}
	return true
}

func (l *lingers) release() { l.n.Add(-1) }

// refused are the connections whose handshake ended with our alert. Strangers fill these places, and no others.
var refused lingers

// CloseAfterAlert closes c, to which an alert was written last, and does not wait. Where there is a place it lingers,
// as a connection of its own.
func CloseAfterAlert(c *net.TCPConn) {
	defer c.Close()
	if !refused.acquire() {
		return
	}
	own, err := duplicate(c)
	if err != nil {
		refused.release()
		return
	}
	go func() {
		defer refused.release()
		defer own.Close()
		_ = own.SetReadDeadline(time.Now().Add(lingerTime))
		if own.CloseWrite() == nil {
			_, _ = io.CopyN(io.Discard, own, lingerBytes)
		}
	}()
}

// duplicate is another connection of the same socket: whoever has the first may reset it once it is closed.
func duplicate(c *net.TCPConn) (*net.TCPConn, error) {
	f, err := c.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	own, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return own.(*net.TCPConn), nil
}
