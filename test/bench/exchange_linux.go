package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// tail is how long an open loop waits for the answers that are still out at its end (what has none by then is a
// failure), and a closed loop for its first.
const tail = 3 * time.Second

// idleAtOnce is how many connections loadIdle opens at the same time: proxies refuse, or let wait, what comes from one
// address all at once.
const idleAtOnce = 32

// conn is one connection of the generator.
type conn struct {
	index    int
	fd       int
	out      []byte // not taken by the socket yet
	in       [messageSize]byte
	got      int         // bytes of in
	sent     uint64      // messages, and answers had of them
	answered uint64      //
	due      []time.Time // of the messages that have no answer yet
}

// open makes the connection anew. What was on the way is lost.
func (l *load) open(c *conn) error {
	c.out, c.got, c.due = append(c.out[:0], modeEcho), 0, c.due[:0]
	c.answered = c.sent
	fd, err := connectTo(l.spec.Target, sources(l.spec.Target, c.index))
	if err != nil {
		return err
	}
	c.fd = fd
	l.byFD[fd] = c
	return watch(l.ep, unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET)
}

func (l *load) close(c *conn) {
	delete(l.byFD, c.fd)
	unix.Close(c.fd)
}

// post sends a message that is due then.
func (c *conn) post(due time.Time) error {
	var message [messageSize]byte
	binary.LittleEndian.PutUint64(message[:], c.sent)
	c.sent++
	c.due = append(c.due, due)
	c.out = append(c.out, message[:]...)
	return c.flush()
}

func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	n, err := send(c.fd, c.out)
	if errors.Is(err, unix.ENOTCONN) { // still connecting
		return nil
	}
	c.out = c.out[:copy(c.out, c.out[n:])]
	return err
}

// collect reads answers and gives each to done, until there is no more.
func (c *conn) collect(done func(due time.Time)) error {
	for {
		n, err := receive(c.fd, c.in[c.got:])
		switch {
		case n < 0 || errors.Is(err, unix.ENOTCONN):
			return nil
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		if c.got += n; c.got < messageSize {
			continue
		}
		if c.got = 0; len(c.due) == 0 || binary.LittleEndian.Uint64(c.in[:]) != c.answered {
			return fmt.Errorf("the answer is not that of message %d", c.answered)
		}
		c.answered++
		due := c.due[0]
		c.due = c.due[:copy(c.due, c.due[1:])]
		done(due)
		if len(c.due) == 0 {
			return nil // whatever comes next makes an event of its own
		}
	}
}

// exchange sends small messages in a closed loop (one on the way per connection) or at a rate.
func (l *load) exchange() error {
	for i := range l.spec.Connections {
		l.conns = append(l.conns, &conn{index: i})
		if err := l.begun(l.conns[i]); err != nil {
			return err
		}
	}
	if l.spec.Rate > 0 {
		return l.openLoop()
	}
	for _, c := range l.conns {
		if err := l.answerTo(c, c.post(time.Now())); err != nil {
			return err
		}
	}
	warm := time.Now().Add(l.spec.Warmup)
	for now := time.Now(); l.phase(now, warm) || l.unanswered(now); now = time.Now() {
		if err := l.step(5, l.next); err != nil {
			return err
		}
	}
	l.result.Seconds = time.Since(l.begin).Seconds()
	return nil
}

// begun opens a connection, again after a while where that fails.
func (l *load) begun(c *conn) error {
	for {
		err := l.open(c)
		if err == nil {
			return nil
		}
		if err := l.fail(err); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// record counts an answer.
func (l *load) record(due time.Time) {
	if l.begin.IsZero() || due.Before(l.begin) {
		return
	}
	l.result.Requests++
	l.latencies = append(l.latencies, int64(time.Since(due)))
}

// next records an answer and sends the next message of a closed loop.
func (l *load) next(c *conn, due time.Time) error {
	l.record(due)
	if l.spec.Kind != loadFresh {
		return c.post(time.Now())
	}
	l.close(c)
	time.Sleep(l.spec.Pause)
	now := time.Now() // making the connection is part of the time
	if err := l.begun(c); err != nil {
		return err
	}
	return c.post(now)
}

// answerTo makes a connection anew after an error of its own, and goes on with it.
func (l *load) answerTo(c *conn, err error) error {
	for err != nil {
		l.result.Failures += max(0, len(c.due)-1) // what was on the way is lost
		if failed := l.fail(err); failed != nil {
			return failed
		}
		l.close(c)
		if err := l.begun(c); err != nil {
			return err
		}
		if l.spec.Rate > 0 {
			return nil
		}
		err = c.post(time.Now())
	}
	return nil
}

// step waits for events, timeout milliseconds at most, and serves them.
func (l *load) step(timeout int, next func(*conn, time.Time) error) error {
	var ready [128]unix.EpollEvent
	n, err := unix.EpollWait(l.ep, ready[:], timeout)
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("epoll: %w", err)
	}
	for _, e := range ready[:max(n, 0)] {
		c := l.byFD[int(e.Fd)]
		if c == nil { // the timer of an open loop, which goes on once it has been read
			var expired [8]byte
			_, _ = unix.Read(int(e.Fd), expired[:])
			continue
		}
		var answered []time.Time
		err := c.flush()
		if err == nil {
			err = c.collect(func(due time.Time) { answered = append(answered, due) })
		}
		for _, due := range answered {
			if failed := next(c, due); failed != nil {
				err = failed
			}
		}
		if err := l.answerTo(c, err); err != nil {
			return err
		}
	}
	return nil
}

// openLoop sends a message whenever one is due, whether or not earlier ones have been answered.
func (l *load) openLoop() error {
	interval := time.Second / time.Duration(l.spec.Rate)
	first := time.Now() // before the timer begins, so that it never fires just before a message is due
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err == nil {
		every := unix.NsecToTimespec(int64(interval))
		err = unix.TimerfdSettime(timer, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil)
	}
	if err == nil {
		err = watch(l.ep, unix.EPOLL_CTL_ADD, timer, unix.EPOLLIN)
	}
	if err != nil {
		return fmt.Errorf("timer: %w", err)
	}
	answered := func(_ *conn, due time.Time) error { l.record(due); return nil }
	warm := first.Add(l.spec.Warmup)
	for i := 0; ; {
		for now := time.Now(); ; i++ {
			due := first.Add(time.Duration(i+1) * interval)
			if due.After(now) {
				break
			}
			if !l.phase(due, warm) {
				return l.finish(answered)
			}
			c := l.conns[i%len(l.conns)]
			if err := l.answerTo(c, c.post(due)); err != nil {
				return err
			}
		}
		if err := l.step(50, answered); err != nil {
			return err
		}
	}
}

// finish waits for the answers that are still out.
func (l *load) finish(answered func(*conn, time.Time) error) error {
	l.result.Seconds = l.spec.Duration.Seconds()
	waiting := func() (n int) {
		for _, c := range l.conns {
			n += len(c.due)
		}
		return n
	}
	for deadline := time.Now().Add(tail); waiting() > 0 && time.Now().Before(deadline); {
		if err := l.step(5, answered); err != nil {
			return err
		}
	}
	if n := waiting(); n > 0 {
		l.result.Failures += n
		l.result.Failure = fmt.Sprintf("%d messages had no answer %s after the end", n, tail)
	}
	return nil
}

// idle opens connections, exchanges one message on each, and holds them until in ends.
func (l *load) idle(in io.Reader) error {
	var open, done int
	answered := func(_ *conn, due time.Time) error { done++; return nil }
	for deadline := time.Now().Add(170 * time.Second); done < l.spec.Connections; {
		for ; open < l.spec.Connections && open-done < idleAtOnce; open++ {
			c := &conn{index: open}
			if err := l.begun(c); err != nil {
				return err
			}
			if err := c.post(time.Now()); err != nil {
				return err
			}
		}
		if err := l.step(100, answered); err != nil {
			return err
		}
		if l.result.Failures > 0 || time.Now().After(deadline) {
			return fmt.Errorf("%d of %d connections are open: %s", done, l.spec.Connections, cmp.Or(l.result.Failure, "they take too long"))
		}
	}
	l.start(time.Now())
	_, err := io.Copy(io.Discard, in)
	l.result.Requests = done
	return err
}
