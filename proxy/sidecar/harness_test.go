package sidecar

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
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
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/config"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// Addresses of the tests. All of 127.0.0.0/8 is the loopback interface on Linux, so pods can have addresses of their
// own there.
const (
	clientIP = "127.0.0.11"
	serverIP = "127.0.0.12" // what the mesh map knows as the server's clusterIP
	otherIP  = "127.0.0.13" // what it does not know
	appIP    = "127.0.0.14"
)

// pollInterval is how often a pod looks for new files.
var pollInterval = 50 * time.Millisecond

// pod is a proxy in this process, with its redirections replaced by what the test says.
type pod struct {
	*proxy
	dir    string
	logs   *logBuffer
	level  *slog.LevelVar
	target atomic.Pointer[netip.AddrPort] // what the app of this pod dials next
	stop   func()
	done   chan error // what serve returned; closed after that
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func mustListen(t testing.TB, ip string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// startPod starts a proxy on ip whose app listens on app, and waits until it is ready if there is something to be ready
// with.
func startPod(t testing.TB, ip string, app netip.AddrPort, files proxytest.Files) *pod {
	t.Helper()
	p := &pod{dir: t.TempDir(), logs: &logBuffer{}, level: new(slog.LevelVar)}
	if files != nil {
		files.Publish(t, p.dir)
	}
	l := listeners{outbound: []net.Listener{mustListen(t, ip)}, inbound: mustListen(t, ip), metrics: mustListen(t, ip), health: mustListen(t, ip), local: mustListen(t, ip)}
	inboundPort := listen.AddrPort(l.inbound.Addr()).Port()
	p.dials(netip.AddrPort{})
	p.proxy = newProxy(setup{
		args: podplan.ProxyArgs{Directory: p.dir, DrainTimeout: 2 * time.Second}, log: slog.New(slog.NewJSONHandler(p.logs, &slog.HandlerOptions{Level: p.level})), level: p.level, listeners: l,
		original: func(c *net.TCPConn) (netip.AddrPort, error) {
			if listen.AddrPort(c.LocalAddr()).Port() == inboundPort {
				return app, nil
			}
			return *p.target.Load(), nil
		},
		ownAddress: func(a netip.Addr) bool { return a == netip.MustParseAddr(appIP) },
		sources:    listen.Sources{V4: netip.MustParseAddr(api.InboundSource4)},
		watch:      config.WatchOptions{Poll: pollInterval, Debounce: 5 * time.Millisecond},
	})
	ctx, cancel := context.WithCancel(context.Background())
	p.done = make(chan error, 1)
	go func() {
		p.done <- p.serve(ctx)
		close(p.done)
	}()
	p.stop = sync.OnceFunc(func() { cancel(); <-p.done })
	t.Cleanup(p.stop)
	if files != nil {
		eventually(t, "the proxy is ready", func() bool { return p.ready() == nil })
	}
	return p
}

func (p *pod) dials(dst netip.AddrPort) { p.target.Store(&dst) }

func (p *pod) outboundAddr() string { return p.traffic[0].Addr().String() }
func (p *pod) inboundAddr() netip.AddrPort {
	return listen.AddrPort(p.traffic[len(p.traffic)-1].Addr())
}
func (p *pod) generation() uint64 { return p.source.Current().Number }

// publish puts files into the pod's directory and waits until they are in use.
func (p *pod) publish(t testing.TB, files proxytest.Files) {
	t.Helper()
	before := p.generation()
	files.Publish(t, p.dir)
	eventually(t, "the new generation is in use", func() bool { return p.generation() > before })
}

// eventually waits up to ten seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// scrape is the text of the pod's metrics.
func (p *pod) scrape(t testing.TB) string {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	for _, s := range p.servers {
		response, err := c.Get("http://" + s.listener.Addr().String() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return string(text)
		}
	}
	t.Fatal("no server has metrics")
	return ""
}

// wantMetric waits until the metrics have a line that begins so. A series that counts nothing yet is none.
func (p *pod) wantMetric(t testing.TB, line string) {
	t.Helper()
	eventually(t, line, func() bool {
		for got := range strings.Lines(p.scrape(t)) {
			if strings.HasPrefix(got, line) && !strings.HasSuffix(got, " 0\n") {
				return true
			}
		}
		return false
	})
}

// startApp serves connections with handle until the test ends.
func startApp(t testing.TB, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	return startAppAt(t, appIP, handle)
}

func startAppAt(t testing.TB, ip string, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l := mustListen(t, ip)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(30 * time.Second))
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return listen.AddrPort(l.Addr())
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

// dial opens a connection with a deadline for everything.
func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// mesh is two pods, client and server, that share a CA.
type mesh struct {
	ca             *testca.CA
	app            netip.AddrPort
	client, server *pod
	clientFiles    proxytest.Workload
	serverFiles    proxytest.Workload
}

// withServer lists the server as a Service at serverIP, answered by the given workloads of namespace prod.
func withServer(names ...string) func(*meshmap.Map) {
	return func(m *meshmap.Map) {
		var ids []string
		for _, n := range names {
			ids = append(ids, proxytest.ID(n))
		}
		m.Services = append(m.Services, meshmap.Service{Host: "server.prod.svc.cluster.local", ClusterIPs: []netip.Addr{netip.MustParseAddr(serverIP)}, Identities: ids})
	}
}

func workload(t testing.TB, ca *testca.CA, name string, changes ...func(*meshmap.Map)) proxytest.Workload {
	t.Helper()
	return proxytest.Workload{CA: ca, Leaf: ca.Issue(t, proxytest.ID(name)), Mesh: proxytest.Mesh(changes...),
		Workload: podplan.Workload{SPIFFEID: proxytest.ID(name)}}
}

// startMesh starts both pods; changes apply to the map of both.
func startMesh(t testing.TB, handle func(*net.TCPConn), changes ...func(*meshmap.Map)) *mesh {
	t.Helper()
	m := &mesh{ca: testca.New(t, proxytest.TrustDomain), app: startApp(t, handle)}
	changes = append([]func(*meshmap.Map){withServer("server")}, changes...)
	m.serverFiles = workload(t, m.ca, "server", changes...)
	m.clientFiles = workload(t, m.ca, "client", changes...)
	m.server = startPod(t, serverIP, m.app, m.serverFiles.Sealed(t))
	m.client = startPod(t, clientIP, netip.MustParseAddrPort(clientIP+":1"), m.clientFiles.Sealed(t))
	m.client.dials(m.server.inboundAddr())
	return m
}

// tlsClient is a correct client of the mesh, for attacks to spoil.
func (m *mesh) tlsClient(leaf tls.Certificate) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{leaf}, NextProtos: []string{api.ALPN}}
}

// roundTrip sends text and expects it back.
func roundTrip(c io.ReadWriter, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// exchange opens a connection of its own for a round trip. A refusal may be seen as early as by connect.
func exchange(addr, text string) error {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	return roundTrip(c, text)
}

// noLeaks fails the test if goroutines remain once everything that the test started has been stopped. Call it first.
func noLeaks(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		var after int
		for range 500 {
			if after = runtime.NumGoroutine(); after <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines before, %d after:\n%s", before, after, stacks[:runtime.Stack(stacks, true)])
	})
}

// slow skips with -short a test that takes seconds.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds")
	}
}
