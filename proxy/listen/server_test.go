package listen_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/proxy/listen"
)

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func burst(t *testing.T, from string, l net.Listener, n int, say string) {
	t.Helper()
	for range n {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", l.Addr().String())
		if errors.Is(err, syscall.ECONNRESET) {
			continue // a refusal may be seen as early as that
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_, _ = c.Write([]byte(say))
	}
}

// TestBurstWaits: what has no slot waits, and is served; nothing is refused. Places are held until the end, slots until
// the peer is known.
func TestBurstWaits(t *testing.T) {
	l := loopback(t)
	var running, most, served atomic.Int64
	known := make(chan struct{})
	s := &listen.Server{Listeners: []net.Listener{l}, Pool: pool(1000), Handshakes: 8, OnError: func(err error) { t.Error(err) },
		Patience: func(*net.TCPConn) time.Duration { return time.Minute },
		Refuse:   func(c *listen.Conn, why listen.Refusal) { t.Error(why); c.End() },
		Handle: func(_ context.Context, c *listen.Conn) {
			most.Store(max(most.Load(), running.Add(1)))
			<-known
			running.Add(-1)
			c.Authenticated()
			c.Authenticated() // once only
			served.Add(1)
			c.End()
		}}
	stop := start(t, s)
	burst(t, "127.0.0.1", l, 200, "x")
	eventually(t, "one source has half of the slots", func() bool { return running.Load() == 4 && s.Waiting() == 196 })
	burst(t, "127.0.0.2", l, 1, "x")
	eventually(t, "another has its turn", func() bool { return running.Load() == 5 })
	close(known)
	eventually(t, "all are served", func() bool { return served.Load() == 201 })
	if most.Load() > 8 {
		t.Errorf("%d had a slot", most.Load())
	}
	stop()
	if s.Active() != 0 || s.Pool.Free() != 1000 {
		t.Errorf("%d are active, %d places are free", s.Active(), s.Pool.Free())
	}
}

// TestSilentHaveNoTurn: connections that say nothing hold no slot. What is silent for its time has its turn then, as
// some protocols ask for.
func TestSilentHaveNoTurn(t *testing.T) {
	l := loopback(t)
	var silent, spoken atomic.Int64
	var patience atomic.Int64
	patience.Store(int64(time.Hour))
	end := make(chan struct{})
	s := &listen.Server{Listeners: []net.Listener{l}, Pool: pool(1000), Handshakes: 8, OnError: func(err error) { t.Error(err) },
		Patience: func(*net.TCPConn) time.Duration { return time.Duration(patience.Load()) },
		Refuse:   func(c *listen.Conn, why listen.Refusal) { t.Error(why); c.End() },
		Handle: func(_ context.Context, c *listen.Conn) {
			defer c.End()
			if c.Silent {
				silent.Add(1)
				return
			}
			if _, err := c.Read(make([]byte, 1)); err == nil {
				spoken.Add(1)
			}
			<-end
		}}
	start(t, s)
	t.Cleanup(sync.OnceFunc(func() { close(end) }))
	burst(t, "127.0.0.1", l, 100, "")
	eventually(t, "silent ones wait", func() bool { return s.Waiting() == 100 })
	burst(t, "127.0.0.2", l, 1, "x")
	burst(t, "127.0.0.3", l, 1, "x")
	eventually(t, "who speaks is served", func() bool { return spoken.Load() == 2 })
	patience.Store(1)
	burst(t, "127.0.0.4", l, 1, "")
	eventually(t, "silence has its turn", func() bool { return silent.Load() == 1 })
}

// TestFullPark: only a full park refuses, from the source with most in it.
func TestFullPark(t *testing.T) {
	l := loopback(t)
	var refused sync.Map
	var refusals atomic.Int64
	end := make(chan struct{})
	s := &listen.Server{Listeners: []net.Listener{l}, Pool: budget.NewPool(budget.Budget{Connections: 40, Park: 10}), Handshakes: 1, OnError: func(err error) { t.Error(err) },
		Refuse: func(c *listen.Conn, why listen.Refusal) {
			refused.Store(listen.AddrPort(c.RemoteAddr()).Addr().String(), why)
			refusals.Add(1)
			c.End()
		},
		Handle: func(_ context.Context, c *listen.Conn) { <-end; c.End() }}
	start(t, s)
	t.Cleanup(func() { close(end) })
	burst(t, "127.0.0.1", l, 100, "x")
	eventually(t, "the park is full", func() bool { return refusals.Load() > 20 && int(refusals.Load())+s.Active() == 100 })
	before := refusals.Load()
	burst(t, "127.0.0.2", l, 5, "x")
	eventually(t, "the source with most made room", func() bool { return refusals.Load() == before+5 })
	if why, ok := refused.Load("127.0.0.2"); ok {
		t.Errorf("the other source is refused: %s", why)
	}
	if s.Active() > 80 {
		t.Errorf("%d are held", s.Active())
	}
}

// TestPressure: while all places are taken, connections wait, and who is asked to give way does; both directions share
// the places, and each has a part of the park.
func TestPressure(t *testing.T) {
	shared := budget.NewPool(budget.Budget{Connections: 10, Park: 10})
	var mu sync.Mutex
	var open []*listen.Conn
	hold := func(_ context.Context, c *listen.Conn) {
		c.Authenticated()
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
	}
	held := func() int { mu.Lock(); defer mu.Unlock(); return len(open) }
	endOne := func() {
		mu.Lock()
		c := open[0]
		open = open[1:]
		mu.Unlock()
		c.End()
	}
	var pressed atomic.Int64
	var servers [2]*listen.Server
	for i := range servers {
		servers[i] = &listen.Server{Listeners: []net.Listener{loopback(t)}, Pool: shared, Handshakes: 4, OnError: func(err error) { t.Error(err) },
			Refuse: func(c *listen.Conn, _ listen.Refusal) { c.End() }, Handle: hold, Pressed: func(few int) { pressed.Store(int64(few) + 1) }}
	}
	for _, s := range servers {
		if err := s.Init(); err != nil {
			t.Fatal(err)
		}
	}
	var done sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for _, s := range servers {
		done.Go(func() { s.Serve(ctx, nil) })
	}
	t.Cleanup(func() {
		cancel()
		for held() > 0 {
			endOne()
		}
		done.Wait()
	})
	burst(t, "127.0.0.1", servers[0].Listeners[0], 13, "x")
	eventually(t, "places are taken, three wait", func() bool { return held() == 10 && servers[0].Waiting() == 3 })
	eventually(t, "somebody is asked to give way to who holds ten", func() bool { return pressed.Load() == 11 })
	burst(t, "127.0.0.2", servers[1].Listeners[0], 1, "x")
	eventually(t, "somebody is asked to give way to who holds none", func() bool { return pressed.Load() == 1 })
	for i := range 4 {
		endOne()
		eventually(t, fmt.Sprintf("place %d is taken again", i), func() bool { return held() == 10 })
	}
	if servers[0].Waiting()+servers[1].Waiting() != 0 {
		t.Error("somebody still waits")
	}
}

// TestAdd: listeners come to a server before it serves and while it does, one that is closed is gone without the
// others, and none comes to a server that has ended.
func TestAdd(t *testing.T) {
	var served atomic.Int64
	s := &listen.Server{Pool: pool(1000), Handshakes: 8, OnError: func(err error) { t.Error(err) }, Refuse: func(c *listen.Conn, why listen.Refusal) { t.Error(why); c.End() },
		Handle: func(_ context.Context, c *listen.Conn) {
			served.Add(1)
			c.End()
		}}
	if err := s.Init(); err != nil {
		t.Fatal(err)
	}
	before, during, late := loopback(t), loopback(t), loopback(t)
	if !s.Add(before) {
		t.Error("a listener cannot come before the server serves")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Serve(ctx, nil); close(done) }()
	burst(t, "127.0.0.1", before, 3, "x")
	eventually(t, "the first is served", func() bool { return served.Load() == 3 })
	if !s.Add(during) {
		t.Error("a listener cannot come while the server serves")
	}
	before.Close()
	burst(t, "127.0.0.1", during, 3, "x")
	eventually(t, "the second is served", func() bool { return served.Load() == 6 })
	during.Close()
	again := loopback(t)
	if !s.Add(again) {
		t.Error("a server without a listener takes none")
	}
	burst(t, "127.0.0.1", again, 3, "x")
	eventually(t, "the third is served", func() bool { return served.Load() == 9 })
	cancel()
	<-done
	if s.Add(late) {
		t.Error("a server that has ended takes a listener")
	}
	for what, l := range map[string]net.Listener{"late": late, "again": again} {
		if isOpen(l) {
			t.Errorf("the listener %s is open", what)
		}
	}
}

func isOpen(l net.Listener) bool { return l.(*net.TCPListener).SetDeadline(time.Time{}) == nil }

// TestAttackAdd: listeners that come and go while the server ends leave nothing open.
func TestAttackAdd(t *testing.T) {
	for range 20 {
		s := &listen.Server{Pool: pool(1000), Handshakes: 8, OnError: func(error) {}, Refuse: func(c *listen.Conn, _ listen.Refusal) { c.End() },
			Handle: func(_ context.Context, c *listen.Conn) { c.End() }}
		if err := s.Init(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.Serve(ctx, nil); close(done) }()
		var adding sync.WaitGroup
		var all [50]net.Listener
		for i := range all {
			all[i] = loopback(t)
			adding.Go(func() { s.Add(all[i]) })
		}
		cancel()
		adding.Wait()
		<-done
		for _, l := range all {
			if isOpen(l) {
				t.Fatal("a listener is open behind the end of the server")
			}
		}
	}
}
