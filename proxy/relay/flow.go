package relay

import (
	"errors"
	"io"
	"os"
	"time"
)

// flow is one direction of a session.
type flow struct {
	session  *Session
	dst, src *Side
	count    func(int64)
	total    int64

	// What is read, where one of the two sides has a record layer.
	in    buffer // held only while there is something in it
	have  int    // bytes of in that are in use
	rest  []byte // the beginning of a record, kept while the connection waits for more of it
	class class  // of the next buffer
}

func (f *flow) add(n int64) {
	if n <= 0 {
		return
	}
	f.total += n
	f.session.moved()
	if f.count != nil {
		f.count(n)
	}
}

func (f *flow) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := f.dst.write(p)
	f.add(int64(n))
	return err
}

// run moves one direction to its end, by the way that the two sides have.
func (f *flow) run() error {
	switch {
	case f.src.records != nil:
		return f.open()
	case f.dst.records != nil:
		return f.seal()
	case f.src.tls != nil || f.dst.tls != nil:
		return f.copy()
	}
	return f.splice()
}

// spliceChunk is how much is spliced between two updates of the counters.
const spliceChunk = 4 << 20

// splice moves bytes inside the kernel (splice(2), which net.TCPConn.ReadFrom uses when both ends are bare). Only the source gets a
// deadline, and only so that the counters are updated: at that point nothing is in flight in the pipe, so nothing is lost.
func (f *flow) splice() error {
	for {
		_ = f.src.tcp.SetReadDeadline(time.Now().Add(f.session.options.Idle / 4))
		n, err := f.dst.tcp.ReadFrom(&io.LimitedReader{R: f.src.tcp, N: spliceChunk})
		f.add(n)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return err
		case n < spliceChunk:
			if err := f.src.judgeEnd(); err != io.EOF {
				return err
			}
			return nil
		}
	}
}

// seal reads what an app sends, and sends it as records. It is what waits, for hours perhaps, so what it does between two waits is in functions of their own:
// their stack is not held while it waits.
func (f *flow) seal() error {
	r, err := newReceiver(f.src.tcp, f.lend, f.park)
	if err != nil {
		return err
	}
	for {
		n, err := r.receive()
		if err == nil {
			err = f.sendRecords(n)
		} else if err == io.EOF {
			err = f.src.judgeEnd()
		}
		f.release()
		if err != nil {
			return orderly(err)
		}
	}
}

func (f *flow) sendRecords(n int) error {
	out := take(f.in.class)
	defer out.put()
	if err := f.dst.records.Write(f.in.bytes[:n], out.bytes); err != nil {
		return err
	}
	f.add(int64(n))
	f.resize(n)
	return nil
}

// open reads records, and sends an app what is in them.
func (f *flow) open() error {
	r, err := newReceiver(f.src.tcp, f.lend, f.park)
	if err != nil {
		return err
	}
	defer f.release()
	f.rest = f.src.raw.takeAhead()
	waiting := len(f.rest) > 0 // what came with the end of the handshake is here already
	for {
		n := 0
		if waiting {
			f.lend()
		} else if n, err = r.receive(); err == io.EOF {
			return errTruncated
		} else if err != nil {
			return err
		}
		waiting = false
		f.have += n
		f.resize(f.have)
		if ended, err := f.deliver(); ended || err != nil {
			return err
		}
	}
}

// deliver opens the records that are there as a whole, writes their data, and moves what is left to the beginning of the buffer. Data before an error is
// delivered, as it would be if the error came a moment later.
func (f *flow) deliver() (ended bool, err error) {
	out := take(f.in.class)
	defer out.put()
	data, used, openErr := f.src.records.Open(out.bytes[:0], f.in.bytes[:f.have])
	f.have = copy(f.in.bytes, f.in.bytes[used:f.have])
	if f.have == 0 {
		f.release() // before the write, which may have to wait for an app that does not read
	}
	if err := f.write(data); err != nil {
		return false, err
	}
	return openErr == io.EOF, orderly(openErr)
}

func orderly(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// lend is the free part of the buffer that is read into.
func (f *flow) lend() []byte {
	want := f.class
	if max(f.have, len(f.rest)) >= sizes[small] { // a record that is longer than a small buffer
		want = max(want, medium)
	}
	if f.in.lease == nil || f.in.class < want {
		next := take(want)
		if f.in.lease == nil {
			f.have, f.rest = copy(next.bytes, f.rest), nil
		} else {
			copy(next.bytes, f.in.bytes[:f.have])
			f.in.put()
		}
		f.in = next
	}
	return f.in.bytes[f.have:sizes[f.in.class]]
}

// park is called when there is nothing to read: the buffer goes back, and what is left of a record stays in memory of its own size.
func (f *flow) park() {
	if f.have > 0 {
		f.rest = append([]byte(nil), f.in.bytes[:f.have]...)
	}
	f.release()
}

// release gives the buffer back.
func (f *flow) release() {
	f.in.put()
	f.have = 0
}

// resize chooses the next buffer by how full the last read made this one.
func (f *flow) resize(filled int) {
	switch {
	case filled >= sizes[f.in.class] && f.class < large:
		f.class++
	case f.class > small && filled < sizes[f.class-1]/2:
		f.class--
	}
}

// tlsBuffer is what crypto/tls is read with.
const tlsBuffer = medium

// copy moves bytes through crypto/tls, for connections whose records stay with it.
func (f *flow) copy() error {
	b := take(tlsBuffer)
	defer b.put()
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
