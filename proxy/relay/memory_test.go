//go:build linux

package relay_test

import (
	"bytes"
	"crypto/fips140"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/relay"
)

// limited is tunnels whose engine has limits of its own.
func limited(t testing.TB, l relay.Limits) *tunnels {
	t.Helper()
	if fips140.Enabled() {
		t.Skip("crypto/tls moves the bytes")
	}
	ts := newTunnels(t)
	engine, err := relay.NewEngine(runtime.NumCPU(), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(engine.Close)
	ts.engine = engine
	return ts
}

// member is a client of a session, behind its handshake: what it writes to wire is not encrypted.
type member struct {
	tls       *tls.Conn
	wire, app *net.TCPConn
	session   *relay.Session
	ends      chan relay.Result
}

// join starts a session for a client of this owner.
func (ts *tunnels) join(t testing.TB, owner string) *member {
	t.Helper()
	wire, inner := pair(t)
	outer, app := pair(t)
	m := &member{wire: wire, app: app, ends: make(chan relay.Result, 1)}
	var handshake sync.WaitGroup
	handshake.Go(func() {
		server, _, err := relay.Secure(inner, nil, relay.Server, ts.server.Clone(), time.Now().Add(10*time.Second), nil)
		if err != nil {
			t.Error(err)
			return
		}
		m.session = relay.New(server, relay.Plain(outer), relay.Options{Owner: owner})
	})
	m.tls = tls.Client(wire, ts.client)
	err := m.tls.Handshake()
	handshake.Wait()
	if err != nil || m.session == nil {
		t.Fatal("no handshake:", err)
	}
	m.session.Start(ts.engine, func(r relay.Result) { m.ends <- r })
	for _, c := range []*net.TCPConn{wire, app} {
		_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	}
	return m
}

// exchange sends text to the app, which sends it back.
func (m *member) exchange(t testing.TB, text string) {
	t.Helper()
	got := make([]byte, len(text))
	for _, step := range []func() error{
		func() error { _, err := m.tls.Write([]byte(text)); return err },
		func() error { _, err := io.ReadFull(m.app, got); return err },
		func() error { _, err := m.app.Write(got); return err },
		func() error { _, err := io.ReadFull(m.tls, got); return err },
	} {
		if err := step(); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	if string(got) != text {
		t.Fatalf("got %q, want %q", got, text)
	}
}

// ended is the end of the session, if it has come.
func (m *member) ended() (relay.Result, bool) {
	select {
	case r := <-m.ends:
		m.ends <- r
		return r, true
	default:
		return relay.Result{}, false
	}
}

// part is the beginning of the longest record, of n bytes with its header.
func part(n int) []byte {
	record := make([]byte, n)
	copy(record, []byte{23, 3, 3, 0x41, 0x00})
	return record
}

const longest = 5 + 0x4100

// until waits for something to be true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// highest watches the sum of what the sessions hold, until stop.
func (ts *tunnels) highest(t testing.TB) (stop func() int64) {
	var most atomic.Int64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			most.Store(max(most.Load(), ts.engine.Buffered()))
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	stop = sync.OnceValue(func() int64 { close(done); <-ended; return most.Load() })
	t.Cleanup(func() { stop() })
	return stop
}

func heap() int64 {
	for range 2 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// inTransit is how far the sum may be above its limit while those that are to end have not had their last turn.
const inTransit = 1 << 20

// TestPartialRecords: one member begins the longest record on each of its connections, and never sends the last byte.
// It loses what is over the limit, and nobody else loses anything, though another one holds the same.
func TestPartialRecords(t *testing.T) {
	const limit, many = 2 << 20, 400
	ts := limited(t, relay.Limits{Buffered: limit})
	good, slow := ts.join(t, "good"), ts.join(t, "slow")
	good.exchange(t, "before")
	if _, err := slow.wire.Write(part(longest - 1)); err != nil {
		t.Fatal(err)
	}
	before, stop := heap(), ts.highest(t)
	var bad []*member
	for range many {
		m := ts.join(t, "bad")
		_, _ = m.wire.Write(part(longest - 1)) // it may be ended before it has sent all
		bad = append(bad, m)
	}
	good.exchange(t, "during")
	until(t, "who holds too much is ended", func() bool {
		held := 0
		for _, m := range bad {
			if _, over := m.ended(); !over {
				held++
			}
		}
		return held*longest <= limit
	})
	if most := stop(); most > limit+inTransit || most < limit/2 {
		t.Errorf("the sessions held %d KiB, at most %d are meant", most>>10, limit>>10)
	}
	t.Logf("the heap has grown by %d KiB", (heap()-before)>>10)
	for _, m := range bad {
		if r, over := m.ended(); over && !errors.Is(r.Err, relay.ErrMemory) {
			t.Errorf("a session of the bad member ended with %v", r.Err)
		}
	}
	good.exchange(t, "after")
	if r, over := slow.ended(); over {
		t.Errorf("the session of another member ended with %v", r.Err)
	}
	for _, m := range bad {
		m.session.Abort(errors.New("end"))
		wait(t, m.ends)
	}
	slow.session.Abort(errors.New("end"))
	until(t, "nothing is held any more", func() bool { return ts.engine.Buffered() == 0 })
}

// TestClaimedRecords: five bytes that announce the longest record deserve no memory for it.
func TestClaimedRecords(t *testing.T) {
	ts := limited(t, relay.Limits{})
	const many = 100
	var members []*member
	for range many {
		members = append(members, ts.join(t, "bad"))
	}
	before := heap()
	for _, m := range members {
		if _, err := m.wire.Write(part(5)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the headers are read", func() bool { return ts.engine.Buffered() >= many*5 })
	if held := ts.engine.Buffered(); held > many<<10 {
		t.Errorf("%d headers of five bytes hold %d bytes", many, held)
	}
	if grown := heap() - before; grown > many*4<<10 {
		t.Errorf("%d headers of five bytes hold %d KiB of the heap", many, grown>>10)
	}
}

// TestTrickledRecord: a record that comes byte by byte ends its session after a while. One that is kept back by an app
// that does not read never does, nor one that becomes whole.
func TestTrickledRecord(t *testing.T) {
	ts := limited(t, relay.Limits{Record: 400 * time.Millisecond})
	trickle := func(m *member) {
		for i, record := 0, part(longest-1); i < len(record); i++ {
			if _, err := m.wire.Write(record[i : i+1]); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	blocked := ts.join(t, "good")
	sent := make(chan int64, 1)
	go func() { // ends in the middle of a record, which the app keeps back
		n, _ := io.CopyN(blocked.tls, zeros{}, 24<<20)
		sent <- n
	}()
	honest := ts.join(t, "good")
	for range 2 { // the second is the clock for those that must stay
		stuck := ts.join(t, "bad")
		go trickle(stuck)
		if r := wait(t, stuck.ends); !errors.Is(r.Err, relay.ErrStuckRecord) {
			t.Errorf("a record that trickles ended with %v", r.Err)
		}
		if _, err := stuck.app.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("its app got %v, want a reset", err)
		}
		honest.exchange(t, "hello")
	}
	if r, over := blocked.ended(); over {
		t.Fatalf("a session whose app does not read ended with %v", r.Err)
	}
	go func() { _ = blocked.tls.CloseWrite() }()
	got, err := io.Copy(io.Discard, blocked.app)
	if n := <-sent; err != nil || got != n {
		t.Errorf("the app got %d of %d bytes, %v", got, n, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestUnreadAnswers: the app answers, and the peers of one member do not read, with windows as small as they may be.
// What they make the proxy and the kernel hold is bounded, and they are the ones that lose.
func TestUnreadAnswers(t *testing.T) {
	const limit, many = 4 << 20, 120
	ts := limited(t, relay.Limits{Queued: limit, Record: 400 * time.Millisecond})
	good, slow := ts.join(t, "good"), ts.join(t, "slow")
	_ = slow.app.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	_, _ = slow.app.Write(make([]byte, 16<<10)) // is not read either
	before := heap()
	var apps sync.WaitGroup
	var bad []*member
	for range many {
		m := ts.join(t, "bad")
		_ = m.wire.SetReadBuffer(4096)
		apps.Go(func() { _, _ = io.Copy(m.app, zeros{}) })
		bad = append(bad, m)
	}
	lost := func() (n int) {
		for _, m := range bad {
			if r, over := m.ended(); over {
				n++
				if !errors.Is(r.Err, relay.ErrMemory) {
					t.Errorf("a session of the bad member ended with %v", r.Err)
				}
			}
		}
		return n
	}
	until(t, "some are ended", func() bool { return lost() > 0 })
	for last := -1; last != lost(); { // until no more of them end
		last = lost()
		good.exchange(t, "during")
		control := ts.join(t, "clock")
		_, _ = control.wire.Write(part(100))
		wait(t, control.ends)
	}
	if held := ts.engine.Queued(); held > limit {
		t.Errorf("%d KiB are held, at most %d are meant", held>>10, limit>>10)
	}
	grown := heap() - before
	t.Logf("%d of %d were ended, the heap has grown by %d KiB, %d are held", lost(), many, grown>>10, ts.engine.Queued()>>10)
	if grown > limit+inTransit {
		t.Errorf("the heap has grown by %d KiB", grown>>10)
	}
	if r, over := slow.ended(); over {
		t.Errorf("the session of another member ended with %v", r.Err)
	}
	for _, m := range bad {
		m.session.Abort(errors.New("end"))
	}
	apps.Wait()
}

// TestUnreadAnswersWithoutTLS: the same of strangers, for whom the kernel alone moves the bytes.
func TestUnreadAnswersWithoutTLS(t *testing.T) {
	const limit, many = 4 << 20, 40
	ts := limited(t, relay.Limits{Queued: limit, Record: 400 * time.Millisecond})
	start := func(owner string, ends chan relay.Result) (*net.TCPConn, *relay.Session) {
		_, a := pair(t)
		app, b := pair(t)
		s := relay.New(relay.Plain(a), relay.Plain(b), relay.Options{Owner: owner})
		s.Start(ts.engine, func(r relay.Result) { ends <- r })
		return app, s
	}
	slowEnds, ended := make(chan relay.Result, 1), make(chan relay.Result, many)
	slow, _ := start("slow", slowEnds)
	_, _ = slow.Write(make([]byte, 16<<10))
	var apps sync.WaitGroup
	var bad []*relay.Session
	for range many {
		app, s := start("bad", ended)
		bad = append(bad, s)
		apps.Go(func() { _, _ = io.Copy(app, zeros{}) })
	}
	until(t, "some are ended, and the others hold little", func() bool { return len(ended) > 0 && ts.engine.Queued() <= limit })
	end := errors.New("end")
	for _, s := range bad {
		s.Abort(end)
	}
	for range bad {
		if r := wait(t, ended); !errors.Is(r.Err, relay.ErrMemory) && r.Err != end {
			t.Errorf("a session of the bad stranger ended with %v", r.Err)
		}
	}
	apps.Wait()
	if len(slowEnds) > 0 {
		t.Errorf("the session of another stranger ended with %v", (<-slowEnds).Err)
	}
}

// TestBusySenderHoldsNothing: what a member sends, and the app takes, is no excuse for the answers that it leaves
// unread.
func TestBusySenderHoldsNothing(t *testing.T) {
	ts := limited(t, relay.Limits{Queued: 256 << 10, Record: 400 * time.Millisecond})
	m := ts.join(t, "bad")
	_ = m.wire.SetReadBuffer(4096)
	var app sync.WaitGroup
	app.Go(func() { _, _ = io.Copy(m.app, zeros{}) })
	app.Go(func() { _, _ = io.Copy(io.Discard, m.app) })
	app.Go(func() {
		chunk := make([]byte, 256<<10)
		for range 2000 {
			if _, err := m.tls.Write(chunk); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Error("it was not ended while it sent")
	})
	if r := wait(t, m.ends); !errors.Is(r.Err, relay.ErrMemory) {
		t.Errorf("ended with %v", r.Err)
	}
	app.Wait()
}

// TestSlowReadersHoldNothing: who does not read makes the proxy wait, and keep nothing that could wait elsewhere.
func TestSlowReadersHoldNothing(t *testing.T) {
	ts := limited(t, relay.Limits{Buffered: 1 << 40})
	ts.engine.Pin(1<<39 + 1) // memory is short
	const many = 50
	var members []*member
	for range many {
		members = append(members, ts.join(t, "slow"))
	}
	before := heap()
	for _, m := range members {
		_ = m.app.SetWriteDeadline(time.Now().Add(30 * time.Millisecond))
		if _, err := m.app.Write(make([]byte, 64<<20)); err == nil {
			t.Fatal("somebody reads it all")
		}
	}
	// a loop that has just been told of much may not have given its buffers back yet
	for deadline := time.Now().Add(20 * time.Second); heap()-before > many*8<<10; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("each holds %d bytes of the heap, where memory is short", (heap()-before)/many)
		}
	}
}

// TestStreamsArriveWholeInTightMemory: where memory is short everything still arrives.
func TestStreamsArriveWholeInTightMemory(t *testing.T) {
	ts := limited(t, relay.Limits{Buffered: 1 << 40})
	ts.engine.Pin(1<<39 + 1)
	for _, readBuffer := range []int{32 << 10, 128 << 10} {
		tn := ts.open(t, 0)
		_, _ = tn.near.SetReadBuffer(readBuffer), tn.far.SetReadBuffer(readBuffer)
		var all sync.WaitGroup
		for i, ends := range [2][2]*net.TCPConn{{tn.near, tn.far}, {tn.far, tn.near}} {
			all.Go(func() {
				got := make(chan [32]byte, 1)
				go func() {
					sum, err := receive(ends[1], uint64(i))
					if err != nil {
						t.Error(err)
					}
					got <- sum
				}()
				sent, err := send(ends[0], 3<<20, uint64(i))
				if sum := <-got; err != nil || sum != sent {
					t.Errorf("direction %d: %v; equal: %t", i, err, sum == sent)
				}
			})
		}
		all.Wait()
		for _, r := range tn.wantEnds(t) {
			if r.Err != nil {
				t.Errorf("ended with %v", r.Err)
			}
		}
	}
}

// TestAlertIsRead: a peer that breaks the protocol and goes on writing reads the alert that says so, not a reset.
func TestAlertIsRead(t *testing.T) {
	ts := limited(t, relay.Limits{})
	for range 30 {
		m := ts.join(t, "bad")
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			forged := append([]byte{23, 3, 3, 0, 40}, bytes.Repeat([]byte("x"), 40)...)
			for range 20 {
				if _, err := m.wire.Write(forged); err != nil {
					t.Errorf("a write before the alert is read: %v", err)
					return
				}
			}
		}()
		<-stop
		_, err := m.tls.Read(make([]byte, 1))
		if alert := tls.AlertError(20); err == nil || !errors.As(err, new(*net.OpError)) || !bytes.Contains([]byte(err.Error()), []byte(alert.Error())) {
			t.Errorf("the peer got %v, want the alert %v", err, alert)
		}
		wait(t, m.ends)
		m.wire.Close()
	}
}

// TestLingersAreFew: peers that all break the protocol and stay make the proxy keep no more than a few sockets.
func TestLingersAreFew(t *testing.T) {
	ts := limited(t, relay.Limits{})
	const many = 150
	var members []*member
	for range many {
		members = append(members, ts.join(t, "bad"))
	}
	before := hostileDescriptors(t)
	for _, m := range members {
		_, _ = m.wire.Write(append([]byte{23, 3, 3, 0, 40}, bytes.Repeat([]byte("x"), 40)...))
	}
	for _, m := range members {
		wait(t, m.ends)
	}
	// each session had two descriptors of the proxy
	if now, most := hostileDescriptors(t), before-2*many+64; now > most {
		t.Errorf("%d descriptors are open, at most %d are meant", now, most)
	}
	until(t, "no socket lingers", func() bool { return hostileDescriptors(t) <= before-2*many })
}
