package sidecar

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cgroup"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// halfACore lets the child compute half of the time. Without root it has all processors.
func (c *child) halfACore(t *testing.T) {
	t.Helper()
	group, err := cgroup.HalfACore(t)
	if err != nil {
		t.Logf("the proxy has all processors: %v", err)
		return
	}
	t.Cleanup(c.kill) // before the group is removed
	group.Add(t, c.cmd.Process.Pid)
}

// strangers keeps so many connections of strangers at addr busy until end: silent ones, begun handshakes, whole ones
// with a certificate of another mesh, and what is no TLS at all. They come from 40 addresses.
func strangers(t *testing.T, addr string, n int) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	foreign := testca.New(t, proxytest.TrustDomain).Issue(t, proxytest.ID("client"))
	kinds := []func(net.Conn){
		func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) },
		func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 1, 2, 0, 1}); _, _ = c.Read(make([]byte, 1)) },
		func(c net.Conn) {
			s := tls.Client(c, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{foreign}, NextProtos: []string{api.ALPN}})
			_, _ = s.Read(make([]byte, 1))
		},
		func(c net.Conn) { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\n\r\n"); _, _ = c.Read(make([]byte, 1)) },
	}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for ctx.Err() == nil {
				c, err := dialerFrom(fmt.Sprintf("127.0.7.%d", 1+i%40)).DialContext(ctx, "tcp", addr)
				if err == nil {
					stop := context.AfterFunc(ctx, func() { c.Close() })
					kinds[i/40%len(kinds)](c)
					stop()
					c.Close()
				}
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
	end = sync.OnceFunc(func() { cancel(); all.Wait() })
	t.Cleanup(end)
	return end
}

// atOnce runs n at once, and tells how many failed, how long all took, and the first error.
func atOnce(n int, do func(i int) error) (failed int64, took time.Duration, first error) {
	var all sync.WaitGroup
	var once sync.Once
	var count atomic.Int64
	begin := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-begin
			if err := do(i); err != nil {
				count.Add(1)
				once.Do(func() { first = err })
			}
		})
	}
	runtime.Gosched()
	began := time.Now()
	close(begin)
	all.Wait()
	return count.Load(), time.Since(began), first
}

// burstServer is a proxy in a process of its own, with half a core, before an app that answers.
func burstServer(t *testing.T) (*mesh, *child) {
	t.Helper()
	slow(t)
	skipUnderRace(t)
	m, dir := serverFor(t, 3*time.Minute, echo)
	c := startChild(t, dir, m.app)
	c.awaitReady(t)
	c.halfACore(t)
	return m, c
}

// answersDuring asks for metrics and health until end, and wants each to have been answered by then. The client is of
// this process, which is busy with the burst, so it may be too slow at first.
func (c *child) answersDuring(t *testing.T) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	for _, url := range []string{"http://" + c.Health + "/readyz", "http://" + c.Metrics + "/metrics"} {
		done.Go(func() {
			client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			for {
				response, err := client.Get(url)
				if err == nil {
					response.Body.Close()
				}
				switch {
				case err == nil && response.StatusCode == http.StatusOK:
					return
				case ctx.Err() != nil:
					t.Errorf("%s was not answered during a burst: %v", url, err)
					return
				}
			}
		})
	}
	return func() { cancel(); done.Wait() }
}

// TestBurstOfOnePod: 1,500 connections that an app opens at once, through both proxies, all get their answer.
func TestBurstOfOnePod(t *testing.T) {
	m, server := burstServer(t)
	for _, flood := range []int{0, 600} {
		end := func() {}
		if flood > 0 {
			end = strangers(t, server.Inbound, flood)
		}
		m.client = startPod(t, clientIP, m.app, m.clientFiles.Sealed(t))
		m.client.dials(netip.MustParseAddrPort(server.Inbound))
		const n = 1500
		answers := server.answersDuring(t)
		failed, took, err := atOnce(n, func(int) error { return patientExchange(m.client.outboundAddr(), "hello") })
		t.Logf("%d at once beside %d strangers: %d failed, %s", n, flood, failed, took)
		if failed > 0 {
			t.Errorf("%d of %d failed beside %d strangers, such as: %v", failed, n, flood, err)
		}
		answers()
		end()
		m.client.stop()
	}
}

// TestBurstOfManyPods: 4,000 members from 200 addresses at once, as after a restart of their server, get in.
func TestBurstOfManyPods(t *testing.T) {
	for _, flood := range []int{0, 600} {
		t.Run(fmt.Sprintf("beside %d strangers", flood), func(t *testing.T) {
			m, server := burstServer(t)
			if flood > 0 {
				defer strangers(t, server.Inbound, flood)()
			}
			const n, pods = 4000, 200
			config := m.tlsClient(m.ca.Issue(t, proxytest.ID("client")))
			processors := make(chan struct{}, 2*runtime.NumCPU()) // clients do not all compute at once
			answers := server.answersDuring(t)
			failed, took, err := atOnce(n, func(i int) error {
				d := dialerFrom(fmt.Sprintf("127.0.6.%d", 1+i%pods))
				d.Timeout = 3 * time.Minute
				raw, err := d.Dial("tcp", server.Inbound)
				if err != nil {
					return err
				}
				defer raw.Close()
				_ = raw.SetDeadline(time.Now().Add(3 * time.Minute))
				return roundTrip(tls.Client(gated{raw, processors}, config), "hello")
			})
			t.Logf("%d at once of %d addresses beside %d strangers: %d failed, %s", n, pods, flood, failed, took)
			if failed > 0 {
				t.Errorf("%d of %d failed, such as: %v", failed, n, err)
				refused := map[string]int{}
				for line := range strings.Lines(server.logs.String()) {
					if strings.Contains(line, "127.0.6.") && strings.Contains(line, `"level":"WARN"`) {
						_, why, _ := strings.Cut(line, `"duration_ms"`)
						refused[why[strings.Index(why, "reason"):][:min(60, len(why)-20)]]++
					}
				}
				t.Log(refused)
			}
			answers()
		})
	}
}

// gated is a connection whose client computes only with a permit.
type gated struct {
	net.Conn
	permits chan struct{}
}

func (g gated) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.permits <- struct{}{}
	<-g.permits
	return n, err
}
