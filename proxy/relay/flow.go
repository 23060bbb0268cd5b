package relay

import (
	"errors"
	"io"
	"os"
	"time"
)

// flow is one direction of a session that goroutines move: between two plain sides, or through crypto/tls.
type flow struct {
	meter
	dst, src *Side
}

// meter counts what one direction of a session has passed on.
type meter struct {
	session *Session
	count   func(int64) // may be nil
	total   int64
}

func (m *meter) add(n int64) {
	if n <= 0 {
		return
	}
	m.total += n
	m.session.moved()
	if m.count != nil {
		m.count(n)
	}
}

func (f *flow) write(p []byte) error {
	n, err := f.dst.stream.Write(p)
	f.add(int64(n))
	return err
}

// spliceChunk is how much is spliced between two updates of the counters, and spliceTime for how long.
const (
	spliceChunk = 4 << 20
	spliceTime  = 15 * time.Minute
)

// splice moves bytes inside the kernel (splice(2), which net.TCPConn.ReadFrom uses when both ends are plain). The
// source alone gets a deadline, so that the counters are updated now and then. Nothing is in the pipe at that point, so
// nothing is lost.
func (f *flow) splice() error {
	for {
		_ = f.src.tcp.SetReadDeadline(time.Now().Add(spliceTime))
		n, err := f.dst.tcp.ReadFrom(&io.LimitedReader{R: f.src.tcp, N: spliceChunk})
		f.add(n)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return err
		case n < spliceChunk:
			return orderly(f.src.verifyEnd())
		}
	}
}

// copy moves bytes through crypto/tls.
func (f *flow) copy() error {
	b := acquire(medium)
	defer b.release()
	for {
		n, readErr := f.src.read(b.bytes)
		if err := f.write(b.bytes[:n]); err != nil {
			return err
		}
		if readErr != nil {
			return orderly(readErr)
		}
	}
}

func orderly(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
