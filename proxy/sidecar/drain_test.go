package sidecar

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/test/proxytest"
)

func TestDrain(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	c := m.client.open(t, "before")
	ended := make(chan error, 1)
	m.server.Shutdown()
	m.server.drain() // again, by /drain: no harm
	go func() { ended <- m.server.stopWhenDrained() }()
	if err := m.server.Ready(); err == nil || err.Error() != "draining" {
		t.Errorf("ready while draining: %v", err)
	}
	m.server.awaitClosed(t)
	if err := roundTrip(c, "while draining"); err != nil {
		t.Errorf("a live connection was cut: %v", err)
	}
	m.server.dials(m.app)
	if err := exchange(m.server.outboundAddr(), "the app still works"); err != nil {
		t.Errorf("outbound while draining: %v", err)
	}
	c.Close()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("drained with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("does not end though the last connection has")
	}
}

// stopWhenDrained waits for the end that a drain brings.
func (p *pod) stopWhenDrained() error { return <-p.done }

// TestDrainWaitsForPreStop: where the sidecar is a plain container, it is told to end while the app's preStop handler
// runs through it.
func TestDrainWaitsForPreStop(t *testing.T) {
	noLeaks(t)
	finish := make(chan struct{})
	m := startMesh(t, func(c *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		<-finish
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nstopped")
	})
	_, appPort, _ := net.SplitHostPort(m.app.String())
	n, err := netset.ParsePorts(appPort)
	if err != nil {
		t.Fatal(err)
	}
	m.serverFiles.Workload.Handlers = map[string]podplan.Handler{"app/preStop": {HTTPGet: &podplan.HTTPGet{Port: n[0].First, Path: "/stop"}}}
	m.server.publish(t, m.serverFiles.Sealed(t))
	// The harness binds the health port at the pod's address, the app listens at another: only there is the same port
	// free.
	app, err := net.Listen("tcp4", net.JoinHostPort(serverIP, appPort))
	if err != nil {
		t.Skipf("port %s of the app is taken at %s: %v", appPort, serverIP, err)
	}
	forward(t, app, m.app.String())
	answer := make(chan string, 1)
	go func() {
		_, body := m.server.get(t, "GET", podplan.HandlerPath("app/preStop"))
		answer <- body
	}()
	eventually(t, "the handler runs", func() bool { return m.server.prober.Active() == 1 })
	m.server.Shutdown()
	select {
	case <-m.server.done:
		t.Fatal("ended while the preStop handler ran")
	case <-time.After(300 * time.Millisecond):
	}
	close(finish)
	if got := <-answer; got != "stopped" {
		t.Errorf("preStop answered %q", got)
	}
	if err := m.server.stopWhenDrained(); err != nil {
		t.Error(err)
	}
}

// forward passes connections on to dst.
func forward(t *testing.T, l net.Listener, dst string) {
	t.Helper()
	serveEach(t, l, func(c net.Conn) {
		out, err := net.Dial("tcp", dst)
		if err != nil {
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(out, c) })
		_, _ = io.Copy(c, out)
		out.Close()
		c.Close()
		wg.Wait()
	})
}

func TestDrainTimeout(t *testing.T) {
	slow(t)
	noLeaks(t)
	m := startMesh(t, echo)
	c := m.client.open(t, "before")
	begun := time.Now()
	m.server.Shutdown()
	if err := m.server.stopWhenDrained(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 2*time.Second || took > 6*time.Second {
		t.Errorf("ended after %v, want the drain timeout of 2 s", took)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("connection lives on")
	}
}

func TestAdminPorts(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	status, dump := m.server.get(t, "GET", "/configz")
	for _, want := range []string{`"spiffeID": "` + proxytest.ID("server") + `"`, `"generation": 1`, `"draining": false`, "server.prod.svc.cluster.local"} {
		if status != 200 || !strings.Contains(dump, want) {
			t.Errorf("/configz lacks %s:\n%s", want, dump)
		}
	}
	if strings.Contains(dump, "SECRET") || strings.Contains(dump, "PRIVATE") {
		t.Error("/configz holds a key")
	}
	for path, want := range map[string]int{"/readyz": 200, "/livez": 200, "/drain": 405, "/debug/pprof/": 404, "/handlers/app/nothing": 404} {
		if got, _ := m.server.get(t, "GET", path); got != want {
			t.Errorf("GET %s: %d, want %d", path, got, want)
		}
	}
	if status, _ := m.server.get(t, "POST", "/drain"); status != 200 {
		t.Errorf("POST /drain: %d", status)
	}
	if status, body := m.server.get(t, "GET", "/readyz"); status != 503 || body != "draining\n" {
		t.Errorf("/readyz while draining: %d %q", status, body)
	}
	if status, _ := m.server.get(t, "GET", "/livez"); status != 200 {
		t.Errorf("/livez while draining: %d", status)
	}
}

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := Main([]string{"--help"}, &out); err != nil || !strings.Contains(out.String(), "-drain-timeout") {
		t.Errorf("--help: %v, %q", err, out.String())
	}
	for _, args := range [][]string{{"--nonsense"}, {"left-over"}, {"--log-level=loud"}, {"wait", "now"}, {"wait", "--timeout=1ms"}} {
		if err := Main(args, io.Discard); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}
