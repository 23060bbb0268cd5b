package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The kinds of load.
const (
	loadExchange = "exchange" // small messages back and forth: a closed loop, or an open one with a rate
	loadFresh    = "fresh"    // the same, each message on a connection of its own: a closed loop
	loadUp       = "up"       // bulk, to the backend
	loadDown     = "down"     // bulk, from the backend
	loadIdle     = "idle"     // one message on each connection, then silence until the end of input
)

// messageSize is that of a small message, each way.
const messageSize = 128

// maxFailures ends a load that has no working target any more.
const maxFailures = 2000

// loadSpec says what the generator does.
type loadSpec struct {
	Target      netip.AddrPort
	Kind        string
	Connections int
	Rate        int // messages per second of an open loop; 0 is a closed one
	Warmup      time.Duration
	Duration    time.Duration
	Pause       time.Duration // before each connection of a loadFresh of one worker
}

// loadResult is what came of it between warm-up and end.
type loadResult struct {
	Seconds   float64
	Bytes     int64 // received, of loadDown
	Requests  int
	Failures  int    // messages without a right answer, and connections that could not be made
	Failure   string // the first
	Latencies percentiles
}

// percentiles are in microseconds. In an open loop they count from when a message was due, not from when it was sent,
// so that a stall is seen by everything that was due meanwhile (no coordinated omission).
type percentiles struct{ P50, P90, P99, P999, Max float64 }

func percentilesOf(latencies []int64) (p percentiles) {
	if len(latencies) == 0 {
		return p
	}
	slices.Sort(latencies)
	at := func(q float64) float64 {
		return float64(latencies[min(len(latencies)-1, int(q*float64(len(latencies))))]) / 1e3
	}
	return percentiles{at(0.5), at(0.9), at(0.99), at(0.999), float64(latencies[len(latencies)-1]) / 1e3}
}

// sources spreads many connections over loopback addresses, since one pair of addresses has 28,000 ports for all of
// them; elsewhere the system chooses.
func sources(target netip.AddrPort, i int) netip.Addr {
	if !target.Addr().IsLoopback() {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i%8)})
}

// runLoad tells on out when the measured time begins ("begin") and ends ("end", and the result as JSON).
func runLoad(spec loadSpec, in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // a collection would be a pause of the measurement
	debug.SetMemoryLimit(2 << 30)
	// Timers of this thread fire when they are due, not up to 50 µs later.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	l := &load{spec: spec, out: out, byFD: map[int]*conn{}}
	var err error
	if l.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	switch spec.Kind {
	case loadUp, loadDown:
		err = l.bulk()
	case loadIdle:
		err = l.idle(in)
	default:
		err = l.exchange()
	}
	if err != nil {
		return err
	}
	l.result.Latencies = percentilesOf(l.latencies)
	encoded, err := json.Marshal(l.result)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "end %s\n", encoded)
	return err
}

// load is a running generator: one thread, one epoll instance.
type load struct {
	spec      loadSpec
	out       io.Writer
	ep        int
	byFD      map[int]*conn
	conns     []*conn
	begin     time.Time // of the measured time; zero during the warm-up
	end       time.Time
	latencies []int64 // ns
	result    loadResult
}

// start ends the warm-up.
func (l *load) start(now time.Time) {
	l.begin, l.end = now, now.Add(l.spec.Duration)
	fmt.Fprintln(l.out, "begin")
}

// phase moves from warm-up to measured time to the end; false is the end.
func (l *load) phase(now, warm time.Time) bool {
	if l.begin.IsZero() && !now.Before(warm) {
		l.start(now)
	}
	return l.begin.IsZero() || now.Before(l.end)
}

// unanswered tells whether a closed loop is to go on after its end, since nothing at all has been answered: short loads
// on a busy machine.
func (l *load) unanswered(now time.Time) bool {
	return l.result.Requests == 0 && now.Before(l.end.Add(tail))
}

// fail counts what went wrong; too much of it ends the load.
func (l *load) fail(err error) error {
	l.result.Failure = cmp.Or(l.result.Failure, err.Error())
	if l.result.Failures++; l.result.Failures > maxFailures {
		return fmt.Errorf("%d failures, the first: %s", l.result.Failures, l.result.Failure)
	}
	return nil
}

// bulk moves bytes one way on every connection.
func (l *load) bulk() error {
	mode, events := []byte{modeSink}, uint32(unix.EPOLLOUT)
	if l.spec.Kind == loadDown {
		mode, events = []byte{modeSource}, unix.EPOLLIN
	}
	from, err := memory()
	if err != nil {
		return err
	}
	for i := range l.spec.Connections {
		fd, err := connectTo(l.spec.Target, sources(l.spec.Target, i))
		if err != nil {
			return err
		}
		if err := awaitWritable(fd); err != nil {
			return err
		}
		if _, err := send(fd, mode); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		if err := watch(l.ep, unix.EPOLL_CTL_ADD, fd, events); err != nil {
			return err
		}
	}
	ready := make([]unix.EpollEvent, 64)
	warm := time.Now().Add(l.spec.Warmup)
	for now := time.Now(); l.phase(now, warm); now = time.Now() {
		n, err := unix.EpollWait(l.ep, ready, 5)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range ready[:max(n, 0)] {
			if err := l.move(int(e.Fd), from); err != nil {
				return err
			}
		}
	}
	l.result.Seconds = time.Since(l.begin).Seconds()
	return nil
}

func (l *load) move(fd, from int) error {
	if l.spec.Kind == loadUp {
		_, _, err := pour(fd, from)
		if err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		return nil
	}
	n, end, err := drain(fd)
	if err != nil || end {
		return fmt.Errorf("receiving: the stream ended: %w", cmp.Or(err, io.ErrUnexpectedEOF))
	}
	if !l.begin.IsZero() {
		l.result.Bytes += int64(n)
	}
	return nil
}

// awaitWritable waits for the connection to be made, five seconds at most.
func awaitWritable(fd int) error {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(poll, 5000)
	if err != nil || n == 0 {
		return fmt.Errorf("connect: %w", cmp.Or(err, error(unix.ETIMEDOUT)))
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}
