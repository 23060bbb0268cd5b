package sidecar

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/proxytest"
)

// halfOpen begins n handshakes from so many sources and leaves them there, without pause and without opening again
// those that are turned away. It returns how many connections were opened, and what ends them.
func halfOpen(t *testing.T, addr string, n, sources int) (opened int, end func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var mu sync.Mutex
	var held []net.Conn
	var all sync.WaitGroup
	slots := make(chan struct{}, 500)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			d := dialerFrom(fmt.Sprintf("127.0.%d.%d", 40+i%sources/200, 1+i%sources%200))
			d.Timeout = 400 * time.Millisecond // a full queue leaves the rest without an answer
			c, err := d.DialContext(ctx, "tcp", addr)
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01})
			mu.Lock()
			defer mu.Unlock()
			held = append(held, c)
		})
	}
	all.Wait()
	end = sync.OnceFunc(func() {
		for _, c := range held {
			_ = c.(*net.TCPConn).SetLinger(0) // no port is kept in TIME_WAIT
			c.Close()
		}
	})
	t.Cleanup(end)
	return len(held), end
}

// connectionsPossible is as many connections as the attack is to have, or as descriptors allow: both ends are in this
// process.
func connectionsPossible(t *testing.T) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := 10000
	if testing.Short() {
		n = 1500
	}
	if room := int(min(limit.Cur, 1<<20)) - openFiles(t) - 2500; room < n {
		t.Logf("RLIMIT_NOFILE is %d: %d half-open connections instead of %d", limit.Cur, room, n)
		n = room
	}
	if n < 1000 {
		t.Skipf("RLIMIT_NOFILE is %d, which is no room for a flood", limit.Cur)
	}
	return n
}

// survivor keeps a connection that was there before the flood busy, and returns a function that wants it to have been
// served all the time.
func (m *mesh) survivor(t *testing.T) (stop func()) {
	t.Helper()
	c := m.client.open(t, "before")
	ended, trips := make(chan struct{}), 0
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(20 * time.Millisecond):
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if err := roundTrip(c, "during"); err != nil {
				t.Errorf("a connection from before the flood: %v", err)
				return
			}
			trips++
		}
	})
	return func() {
		close(ended)
		done.Wait()
		c.Close()
		if trips == 0 {
			t.Error("the connection from before the flood was not served during it")
		}
		t.Logf("%d round trips during the flood", trips)
	}
}

// TestHandshakeFlood: 10,000 half-open handshakes. Neither from few addresses nor from many do they keep a member out,
// since those that stall hold a part of the slots only, and that for seconds. What waits costs little. Connections that
// are authenticated do not notice. After either everything is back where it was.
func TestHandshakeFlood(t *testing.T) {
	slow(t)
	noLeaks(t)
	m := startMesh(t, echo)
	addr := m.server.inboundAddr().String()
	n := connectionsPossible(t)
	before := m.settled(t)
	config := m.tlsClient(m.ca.Issue(t, proxytest.ID("client")))
	for _, sources := range []int{3, 400} {
		stop := m.survivor(t)
		opened, end := halfOpen(t, addr, n, sources)
		waiting := m.server.inbound.Waiting()
		served := m.server.inbound.Active() - waiting
		t.Logf("%d sources: %d opened, %d served, %d wait", sources, opened, served, waiting)
		if served > m.server.limits.Handshakes+50 {
			t.Errorf("%d have a slot, of %d", served, m.server.limits.Handshakes)
		}
		for range 3 {
			raw, err := dialerFrom(bystanderIP).Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = raw.SetDeadline(time.Now().Add(time.Minute))
			conn := tls.Client(raw, config)
			if err := roundTrip(conn, "hello"); err != nil {
				t.Errorf("another address during a flood of %d: %v", sources, err)
			}
			conn.Close()
		}
		if err := m.server.Ready(); err != nil {
			t.Errorf("not ready during the flood: %v", err)
		}
		m.server.scrape(t)
		end()
		stop()
		m.wantBack(t, before)
	}
}
