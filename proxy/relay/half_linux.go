package relay

import (
	"io"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/proxy/record"
)

// half is one direction of a pair: what src brings is opened or sealed, and goes to dst. At most one of open and seal
// is set. The table of its states is in the package's comment.
type half struct {
	meter
	src, dst   *socket
	open, seal *record.Conn
	ledger     *ledger

	in   buffer // what was read; held only while it is in use
	have int    // bytes of in that are in use
	// rest comes before what is read next: the beginning of a record, kept while the connection waits for more of it
	rest    []byte
	early   bool   // rest is from before the loop, and may be whole
	class   class  // of the next buffer
	out     buffer // what is to be written; held only until dst has taken it
	pending []byte // of out
	owed    int    // bytes of the app that count when out is written

	failed error // of src, reported once pending is written
	ended  bool  // src has ended in order; dst is told once pending is written
	done   bool
	waits  int // how many looks in a row have found the same record incomplete, and its peer silent
}

// begin takes what src brought before the loop.
func (h *half) begin(src *Side) {
	if src.records != nil {
		h.rest, src.raw.ahead = src.raw.ahead, nil // arrived with the end of the handshake
	}
	if h.early = len(h.rest) > 0; !h.early {
		h.rest = nil // it may have kept the memory of what was read in the handshake
	}
}

// turn moves at most one buffer.
func (h *half) turn() (more bool, err error) {
	if settled, err := h.settle(); !settled || err != nil {
		return false, err
	}
	if h.done || !h.src.Readable && !h.early || h.blocked() {
		return false, nil
	}
	if err := h.fill(); err != nil {
		return false, err
	}
	settled, err := h.settle()
	return settled && h.src.Readable && !h.done, err
}

// blocked tells whether dst would take nothing now. What is not read stays in the kernel, and its sender learns to
// wait; what is read could only be kept. A system call is worth that when memory is short, and for a dst that was full,
// unless the half has one of the few large buffers.
func (h *half) blocked() bool {
	if !h.ledger.tight(buffers) && (!h.dst.full || h.class == large && largeLeft()) {
		return false
	}
	h.dst.Writable = h.dst.HasRoom()
	return !h.dst.Writable
}

// settle writes what is pending, and then passes on an end or an error. It is false while dst takes no more.
func (h *half) settle() (bool, error) {
	for len(h.pending) > 0 {
		if !h.dst.Writable {
			return false, nil
		}
		n, err := h.dst.Write(h.pending)
		if err != nil && err != unix.EAGAIN {
			return false, err
		}
		h.pending = h.pending[n:]
		// a short write means that the socket is full; an edge tells when it is not
		if h.dst.Writable = len(h.pending) == 0; !h.dst.Writable {
			h.dst.full = true
		}
		if h.seal == nil {
			h.add(int64(n))
		} else if n > 0 {
			h.session.moved()
		}
	}
	h.out.release()
	h.pending = nil // it may be memory of its own
	h.add(int64(h.owed))
	h.owed = 0
	if h.failed != nil || !h.ended || h.done {
		return true, h.failed
	}
	h.done, h.dst.finished = true, true
	if h.seal != nil { // close_notify was the last that was pending
		return true, nil
	}
	return true, unix.Shutdown(h.dst.FD, unix.SHUT_WR)
}

// fill reads once, and makes pending of it.
func (h *half) fill() error {
	if h.early {
		h.early = false
		h.space()
	} else if whole, err := h.fetch(); !whole || err != nil {
		return err
	}
	h.resize(h.have)
	if h.seal != nil {
		return h.sealAll()
	}
	h.openAll()
	return nil
}

// fetch reads into a buffer. Where the beginning of a record waits, it reads the missing bytes behind that, and takes a
// buffer only when the record is whole.
func (h *half) fetch() (whole bool, err error) {
	space := h.rest[len(h.rest):cap(h.rest)]
	if len(space) == 0 {
		space = h.space()
	}
	n, err := h.src.Read(space)
	switch {
	case err == unix.EAGAIN:
		h.src.Readable = false
		h.releaseIdle()
		return false, nil
	case err != nil:
		return false, err
	case n == 0:
		return false, h.sourceEnded()
	}
	if n < len(space) && !h.src.Uneven {
		h.src.Readable = false
	}
	if h.in.memory != nil {
		h.have += n
		return true, nil
	}
	h.rest = h.rest[:len(h.rest)+n]
	if missing := record.Missing(h.rest); missing > 0 {
		if len(h.rest) == cap(h.rest) {
			h.rest = keep(h.rest, missing)
		}
		return false, nil
	}
	h.space()
	return true, nil
}

// minRest is the least memory for the beginning of a record.
const minRest = 512

// keep copies the beginning of a record into memory of its own, with space for what is missing. That is only as much as
// the peer deserves: the header claims a size, and the bytes need never come.
func keep(part []byte, missing int) []byte {
	n := min(len(part)+missing, max(4*len(part), minRest))
	return append(make([]byte, 0, n), part...)
}

// sourceEnded: TLS that ends without close_notify was cut. An app's stream has ended, unless it was reset.
func (h *half) sourceEnded() error {
	h.releaseIn()
	if h.open != nil {
		return ErrTruncated
	}
	if !h.src.finished && wasResetSocket(h.src.FD) {
		return unix.ECONNRESET
	}
	h.out = acquire(small)
	h.pending, h.ended = h.seal.CloseNotify(h.out.bytes[:0]), true
	return nil
}

func (h *half) sealAll() (err error) {
	h.out = h.in.acquireSibling()
	h.owed = h.have
	h.pending, err = h.seal.Seal(h.out.bytes[:0], h.in.bytes[:h.have])
	h.releaseIn()
	return err
}

func (h *half) openAll() {
	h.out = h.in.acquireSibling()
	data, used, err := h.open.Open(h.out.bytes[:0], h.in.bytes[:h.have])
	h.pending = data
	if used > 0 {
		h.waits = 0
	}
	h.have = copy(h.in.bytes, h.in.bytes[used:h.have])
	switch {
	case err == io.EOF:
		h.ended = true
	case err != nil:
		h.failed = err
	}
	if h.have == 0 || h.ended || h.failed != nil {
		h.releaseIn()
	} else if !h.src.Readable {
		h.releaseIdle()
	}
}

// space is the free part of the buffer that is read into. It acquires that, or a larger one.
func (h *half) space() []byte {
	want := h.class
	if h.ledger.tight(buffers) {
		want = small
	}
	if max(h.have, len(h.rest)) >= sizes[small] { // a record that is longer than a small buffer
		want = max(want, medium)
	}
	if h.in.memory == nil || h.in.class < want {
		next := acquire(want)
		if h.in.memory == nil {
			h.have, h.rest = copy(next.bytes, h.rest), nil
		} else {
			copy(next.bytes, h.in.bytes[:h.have])
			h.in.release()
		}
		h.in = next
	}
	return h.in.bytes[h.have:sizes[h.in.class]]
}

// releaseIdle gives the buffer back while there is nothing to read. The beginning of a record stays, in memory of the
// record's size.
func (h *half) releaseIdle() {
	if part := h.in.bytes[:h.have]; h.have > 0 {
		h.rest = keep(part, record.Missing(part))
	}
	h.releaseIn()
}

func (h *half) releaseIn() {
	h.in.release()
	h.have = 0
}

// drop gives everything back.
func (h *half) drop() {
	h.releaseIn()
	h.out.release()
	h.pending, h.rest = nil, nil
}

// resize chooses the class of the next buffer by how full the last read made this one.
func (h *half) resize(filled int) {
	switch {
	case filled >= sizes[h.in.class] && h.class < large:
		h.class++
	case h.class > small && filled < sizes[h.class-1]/2:
		h.class--
	case h.class == small:
		h.dst.full = false // messages, for which asking whether dst has room would cost too much
	}
}

// held is how much memory the half holds, but for large buffers: those of all sessions have a bound of their own.
func (h *half) held() int64 {
	n := cap(h.rest)
	switch {
	case h.out.memory != nil:
		n += h.out.counted()
	case h.pending != nil:
		n += cap(h.pending)
	}
	if h.in.memory != nil {
		n += h.in.counted()
	}
	return int64(n)
}

// compact keeps only what has to be kept of a half that does not move: buffers are for those that do.
func (h *half) compact() {
	if h.in.memory != nil {
		h.releaseIdle()
	}
	if h.out.memory != nil && len(h.pending) > 0 {
		h.pending = append(make([]byte, 0, len(h.pending)), h.pending...)
		h.out.release()
	}
}

// waiting tells whether src has sent a part of a record, and nothing but src keeps the rest from being read.
func (h *half) waiting() bool {
	return h.open != nil && h.have+len(h.rest) > 0 && len(h.pending) == 0 && !h.src.Readable && h.dst.Writable && !h.done
}
