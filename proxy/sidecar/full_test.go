package sidecar

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/test/cgroup"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// serverFor is what a server's proxy in a process of its own needs: files in a folder, and an app whose connections
// have so much time.
func serverFor(t *testing.T, patience time.Duration, handle func(*net.TCPConn)) (m *mesh, dir string) {
	t.Helper()
	m = &mesh{ca: testca.New(t, proxytest.TrustDomain)}
	m.serverFiles = workload(t, m.ca, "server", withServer("server"))
	m.clientFiles = workload(t, m.ca, "client", withServer("server"))
	dir = t.TempDir()
	m.serverFiles.Sealed(t).Publish(t, dir)
	m.app = startApp(t, func(c *net.TCPConn) {
		_ = c.SetDeadline(time.Now().Add(patience))
		handle(c)
	})
	return m, dir
}

// within gives the child so much memory, and returns what tells its use. Without root it has no limit.
func (c *child) within(t *testing.T, bytes int64) (most func() int64) {
	t.Helper()
	group, err := cgroup.Memory(t, bytes)
	if err != nil {
		t.Logf("the proxy has all memory: %v", err)
		return func() int64 { return 0 }
	}
	t.Cleanup(c.kill) // before the group is removed
	group.Add(t, c.cmd.Process.Pid)
	return func() int64 { return group.MostMemory(t) }
}

// TestFullOfIdle fills a proxy of 128 MiB from two clients with as many idle connections as its budget gives. Then one
// client more gets in, for whom the one that holds most gives up what is idle for longest. 512 MiB hold 31,000 by the
// same figures; the descriptors of a test seldom allow that many.
func TestFullOfIdle(t *testing.T) {
	slow(t)
	skipUnderRace(t)
	const memory = 128 << 20
	m, dir := serverFor(t, 5*time.Minute, func(c *net.TCPConn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 64)) // without the pipe of a splice
	})
	c := startChildOf(t, childSetup{Directory: dir, App: m.app, Memory: memory})
	most := c.within(t, memory)
	c.awaitReady(t)
	want := budget.For(budget.Resources{Memory: memory, Descriptors: int(openLimit(t))}).Connections
	if room := int(openLimit(t))/2 - 500; want > room { // client and app are both here
		t.Logf("%d descriptors: %d connections instead of %d", openLimit(t), room, want)
		want = room
	}
	configs := []*tls.Config{m.tlsClient(m.ca.Issue(t, proxytest.ID("first"))), m.tlsClient(m.ca.Issue(t, proxytest.ID("second")))}
	held := make([]*tls.Conn, want)
	workers := make(chan struct{}, 64)
	var all sync.WaitGroup
	for i := range held {
		workers <- struct{}{}
		all.Go(func() {
			defer func() { <-workers }()
			d := dialerFrom(fmt.Sprintf("127.0.8.%d", 1+i%2))
			d.Timeout = time.Minute
			raw, err := d.Dial("tcp", c.Inbound)
			if err != nil {
				t.Error(err)
				return
			}
			_ = raw.SetDeadline(time.Now().Add(5 * time.Minute))
			held[i] = tls.Client(raw, configs[i%2])
			if err := roundTrip(held[i], "idle"); err != nil {
				t.Errorf("connection %d of %d: %v", i, want, err)
			}
		})
	}
	all.Wait()
	defer func() {
		for _, h := range held {
			if h != nil {
				_ = h.NetConn().(*net.TCPConn).SetLinger(0)
				h.NetConn().Close()
			}
		}
	}()
	t.Logf("%d idle connections in %d MiB: at most %d MiB were used", want, memory>>20, most()>>20)
	if t.Failed() {
		return
	}
	third := m.tlsClient(m.ca.Issue(t, proxytest.ID("third")))
	for range 3 {
		raw, err := dialerFrom("127.0.8.3").Dial("tcp", c.Inbound)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(time.Minute))
		if err := roundTrip(tls.Client(raw, third), "hello"); err != nil {
			t.Fatalf("one client more: %v", err)
		}
	}
	lost := 0
	for _, h := range held {
		if err := roundTrip(h, "still"); err != nil {
			lost++
		}
	}
	t.Logf("%d of %d gave way", lost, want)
	if lost > want/10 {
		t.Errorf("%d connections gave way for three", lost)
	}
}

// TestFewDescriptors: with 1,024 descriptors a member that opens 700 connections and keeps them idle takes none from
// others. The proxy raises its limit to the hard one, says what follows, and never runs out.
func TestFewDescriptors(t *testing.T) {
	slow(t)
	m, dir := serverFor(t, 2*time.Minute, echo)
	c := startChildOf(t, childSetup{Directory: dir, App: m.app, Files: 1024})
	c.awaitReady(t)
	var line struct {
		Budget struct {
			Descriptors int
			Connections int
			Bounded     string `json:"bounded_by"`
		}
	}
	for text := range strings.Lines(c.logs.String()) {
		if strings.Contains(text, `"budget":`) {
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatal(err)
			}
		}
	}
	if b := line.Budget; b.Descriptors != 1024 || b.Bounded != "descriptors" || b.Connections == 0 || 2*b.Connections > 1024 {
		t.Errorf("the log says %+v", b)
	}
	config := m.tlsClient(m.ca.Issue(t, proxytest.ID("client")))
	var greedy sync.WaitGroup
	for range 700 {
		greedy.Go(func() {
			raw, err := dialerFrom(flooderIP).Dial("tcp", c.Inbound)
			if err != nil {
				return
			}
			t.Cleanup(func() { raw.Close() })
			_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
			_ = roundTrip(tls.Client(raw, config), "mine") // what has no place waits, or is refused
		})
	}
	greedy.Wait()
	other := m.tlsClient(m.ca.Issue(t, proxytest.ID("other")))
	for range 20 {
		raw, err := dialerFrom(bystanderIP).Dial("tcp", c.Inbound)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(30 * time.Second))
		if err := roundTrip(tls.Client(raw, other), "hello"); err != nil {
			t.Errorf("another member: %v", err)
		}
	}
	text, err := c.get(c.Metrics, "/metrics")
	if err != nil || !strings.Contains(text, "\nmeshless_accept_errors_total 0\n") {
		t.Errorf("the proxy ran out of descriptors (%v):\n%.2000s", err, c.logs)
	}
}
