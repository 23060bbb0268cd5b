package relay

import (
	"errors"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/record"
)

// joint is a session in a loop: two sockets, and a duct in each direction. All but end and vanished is for the loop's
// goroutine.
type joint struct {
	loop           *loop
	session        *Session
	opener, target socket
	there, back    duct // what the opener sends, and what it gets
	queued, ended  bool
}

func newJoint(l *loop, s *Session) *joint {
	j := &joint{loop: l, session: s}
	j.opener, j.target = socket{joint: j, fd: -1, sealed: s.opener.records != nil}, socket{joint: j, fd: -1, sealed: s.target.records != nil}
	j.there = duct{session: s, src: &j.opener, dst: &j.target, open: s.opener.records, seal: s.target.records, count: s.options.Received, rest: s.options.Prefix}
	j.back = duct{session: s, src: &j.target, dst: &j.opener, open: s.target.records, seal: s.opener.records, count: s.options.Sent}
	for side, d := range map[*Side]*duct{s.opener: &j.there, s.target: &j.back} {
		if side.records != nil {
			d.rest = side.raw.takeAhead()
		}
		d.early = len(d.rest) > 0
	}
	return j
}

// attach takes the sockets from package net into the loop, which may begin to serve them before it returns.
func (j *joint) attach() error {
	opener, target := j.session.opener.tcp, j.session.target.tcp
	j.opener.peer, j.target.peer = opener.RemoteAddr(), target.RemoteAddr()
	var errs [2]error
	j.opener.fd, errs[0] = detach(opener)
	j.target.fd, errs[1] = detach(target)
	if err := errors.Join(errs[:]...); err != nil {
		listen.Reset(opener) // where it was not detached
		listen.Reset(target)
		return err
	}
	return errors.Join(j.loop.watch(&j.opener), j.loop.watch(&j.target))
}

// end is called by Abort.
func (j *joint) end() { j.loop.end(j) }

// vanished is called with the session's lock.
func (j *joint) vanished() error {
	for _, s := range []*socket{&j.opener, &j.target} {
		if s.vanished() {
			return vanishedError(s.peer)
		}
	}
	return nil
}

// turn moves one buffer in each direction, and tells whether there may be more to do at once.
func (j *joint) turn() (more bool) {
	if j.ended {
		return false
	}
	if j.session.aborted.Load() {
		j.finish()
		return false
	}
	for _, d := range []*duct{&j.there, &j.back} {
		again, err := d.turn()
		if err != nil {
			j.breaks(d, err)
			return false
		}
		more = more || again
	}
	switch {
	case j.there.done && j.back.done:
		j.finish()
		return false
	case j.opener.broken:
		j.breaks(&j.back, unix.ECONNRESET)
		return false
	case j.target.broken:
		j.breaks(&j.there, unix.ECONNRESET)
		return false
	}
	return more
}

// breaks ends a session with an error of duct d. What the other direction has brought already is passed on before, as
// far as it is taken at once: an app may answer, and then reset because it does not want the rest of a question.
func (j *joint) breaks(d *duct, err error) {
	j.tell(d, err)
	other := j.other(d)
	other.src.readable = true // a failed write may have taken the error that would wake it
	other.src.uneven = true
	for range lastTurns {
		if more, err := other.turn(); !more || err != nil {
			break
		}
	}
	j.fail(err)
}

// lastTurns bounds what a session that has failed still passes on: it must not keep its loop from others.
const lastTurns = 64

func (j *joint) other(d *duct) *duct {
	if d == &j.there {
		return &j.back
	}
	return &j.there
}

// tell lets a peer know by an alert that it has broken the protocol, if the way to it is free.
func (j *joint) tell(d *duct, err error) {
	if d.open == nil {
		return
	}
	if len(j.other(d).pending) == 0 {
		_, _ = d.src.write(d.open.Alert(nil, err))
	}
}

func (j *joint) fail(err error) {
	s := j.session
	s.endOnce.Do(func() {
		s.reason, s.err = reasonOf(err), err
		s.aborted.Store(true)
	})
	j.finish()
}

// finish closes both sockets. The report goes to a goroutine of its own: a log that is stuck must not keep the loop
// from others.
func (j *joint) finish() {
	if j.ended {
		return
	}
	j.ended = true
	orderly := j.session.orderlyEnd()
	j.there.drop()
	j.back.drop()
	j.session.mu.Lock() // Vanished looks at sockets, and attach may still be adding the second one
	for _, s := range []*socket{&j.opener, &j.target} {
		j.loop.forget(s)
		s.close(orderly)
	}
	j.session.mu.Unlock()
	go j.session.conclude(j.there.total, j.back.total)
}

// duct is one direction: what src brings is opened or sealed, and goes to dst. At most one of open and seal is set.
type duct struct {
	session    *Session
	src, dst   *socket
	open, seal *record.Conn
	count      func(int64)
	total      int64

	in   buffer // what was read; held only while it is in use
	have int    // bytes of in that are in use
	// to be used before what is read next: the beginning of a record, kept while the connection waits for more of it
	rest    []byte
	early   bool   // rest came before the loop, and may be whole
	class   class  // of the next buffer
	out     buffer // what is to be written; held only while dst does not take it
	pending []byte // of out
	owed    int    // bytes of the app that count when out is written

	failed error // of src, once pending is written
	ended  bool  // src has ended in order; dst is told once pending is written
	done   bool
}

// turn moves what it can, at most one buffer.
func (d *duct) turn() (more bool, err error) {
	if settled, err := d.settle(); !settled || err != nil {
		return false, err
	}
	if d.done || !d.src.readable && !d.early {
		return false, nil
	}
	if err := d.fill(); err != nil {
		return false, err
	}
	settled, err := d.settle()
	return settled && d.src.readable && !d.done, err
}

// settle writes what is pending, and then passes on an end or an error. It is false while dst takes no more.
func (d *duct) settle() (bool, error) {
	for len(d.pending) > 0 {
		if !d.dst.writable {
			return false, nil
		}
		n, err := d.dst.write(d.pending)
		if err != nil && err != unix.EAGAIN {
			return false, err
		}
		d.pending = d.pending[n:]
		// less than all means that the socket is full; an edge tells when it is not
		d.dst.writable = len(d.pending) == 0
		if d.seal == nil {
			d.add(n)
		} else if n > 0 {
			d.session.moved()
		}
	}
	d.out.put()
	d.add(d.owed)
	d.owed = 0
	if d.failed != nil || !d.ended || d.done {
		return true, d.failed
	}
	d.done, d.dst.finished = true, true
	if d.seal != nil { // close_notify was the last that was pending
		return true, nil
	}
	return true, unix.Shutdown(d.dst.fd, unix.SHUT_WR)
}

func (d *duct) add(n int) {
	if n <= 0 {
		return
	}
	d.total += int64(n)
	d.session.moved()
	if d.count != nil {
		d.count(int64(n))
	}
}

// fill reads once, and makes pending of it.
func (d *duct) fill() error {
	if d.early {
		d.early = false
		d.lend()
	} else if whole, err := d.fetch(); !whole || err != nil {
		return err
	}
	d.resize(d.have)
	if d.seal != nil {
		return d.sealAll()
	}
	d.openAll()
	return nil
}

// fetch reads into a buffer, or, where a record has begun to arrive, what is missing to it, which takes no buffer while
// it trickles in.
func (d *duct) fetch() (whole bool, err error) {
	room := d.rest[len(d.rest):cap(d.rest)]
	if len(room) == 0 {
		room = d.lend()
	}
	n, err := d.src.read(room)
	switch {
	case err == unix.EAGAIN:
		d.src.readable = false
		d.park()
		return false, nil
	case err != nil:
		return false, err
	case n == 0:
		return false, d.sourceEnded()
	}
	if n < len(room) && !d.src.uneven {
		d.src.readable = false
	}
	if d.in.lease != nil {
		d.have += n
		return true, nil
	}
	d.rest = d.rest[:len(d.rest)+n]
	if missing := record.Missing(d.rest); missing > 0 {
		d.rest = slices.Grow(d.rest, missing)[: len(d.rest) : len(d.rest)+missing]
		return false, nil
	}
	d.lend()
	return true, nil
}

// sourceEnded: a stream of records that ends without close_notify was cut; an app's stream has ended unless it was
// reset.
func (d *duct) sourceEnded() error {
	d.release()
	if d.open != nil {
		return errTruncated
	}
	if !d.src.finished && listen.WasResetSocket(d.src.fd) {
		return unix.ECONNRESET
	}
	d.out = take(small)
	d.pending, d.ended = d.seal.CloseNotify(d.out.bytes[:0]), true
	return nil
}

func (d *duct) sealAll() (err error) {
	d.out = d.in.beside()
	d.owed = d.have
	d.pending, err = d.seal.Seal(d.out.bytes[:0], d.in.bytes[:d.have])
	d.release()
	return err
}

func (d *duct) openAll() {
	d.out = d.in.beside()
	data, used, err := d.open.Open(d.out.bytes[:0], d.in.bytes[:d.have])
	d.pending = data
	d.have = copy(d.in.bytes, d.in.bytes[used:d.have])
	switch {
	case err == io.EOF:
		d.ended = true
	case err != nil:
		d.failed = err
	}
	if d.have == 0 || d.ended || d.failed != nil {
		d.release()
	} else if !d.src.readable {
		d.park()
	}
}

// lend is the free part of the buffer that is read into.
func (d *duct) lend() []byte {
	want := d.class
	if max(d.have, len(d.rest)) >= sizes[small] { // a record that is longer than a small buffer
		want = max(want, medium)
	}
	if d.in.lease == nil || d.in.class < want {
		next := take(want)
		if d.in.lease == nil {
			d.have, d.rest = copy(next.bytes, d.rest), nil
		} else {
			copy(next.bytes, d.in.bytes[:d.have])
			d.in.put()
		}
		d.in = next
	}
	return d.in.bytes[d.have:sizes[d.in.class]]
}

// park is called when there is nothing to read: the buffer goes back, and what is left of a record stays in memory of
// the record's size.
func (d *duct) park() {
	if d.have > 0 {
		n := d.have + record.Missing(d.in.bytes[:d.have])
		d.rest = append(make([]byte, 0, n), d.in.bytes[:d.have]...)[:d.have:n]
	}
	d.release()
}

// release gives the buffer back that is read into.
func (d *duct) release() {
	d.in.put()
	d.have = 0
}

// drop gives everything back.
func (d *duct) drop() {
	d.release()
	d.out.put()
	d.pending, d.rest = nil, nil
}

// resize chooses the next buffer by how full the last read made this one.
func (d *duct) resize(filled int) {
	switch {
	case filled >= sizes[d.in.class] && d.class < large:
		d.class++
	case d.class > small && filled < sizes[d.class-1]/2:
		d.class--
	}
}
