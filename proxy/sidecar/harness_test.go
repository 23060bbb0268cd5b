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
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/admin"
	"github.com/meshless-dev/meshless/proxy/files"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/relay"
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
	*Sidecar
	dir    string
	logs   *logBuffer
	level  *slog.LevelVar
	target atomic.Pointer[netip.AddrPort] // what the app of this pod dials next
	stop   func()
	done   chan error // what Run returned; closed after that
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
func startPod(t testing.TB, ip string, app netip.AddrPort, content proxytest.Files, changes ...func(*Options)) *pod {
	t.Helper()
	p := &pod{dir: t.TempDir(), logs: &logBuffer{}, level: new(slog.LevelVar)}
	if content != nil {
		content.Publish(t, p.dir)
	}
	p.dials(netip.AddrPort{})
	o := testOptions(ip, p.dir, app)
	o.Log, o.Level = slog.New(slog.NewJSONHandler(p.logs, &slog.HandlerOptions{Level: p.level})), p.level
	o.Redirect.Outbound = func(*net.TCPConn) (netip.AddrPort, error) { return *p.target.Load(), nil }
	for _, change := range changes {
		change(&o)
	}
	var err error
	if p.Sidecar, err = New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.done = make(chan error, 1)
	go func() {
		p.done <- p.Run(ctx)
		close(p.done)
	}()
	p.stop = sync.OnceFunc(func() { cancel(); <-p.done })
	t.Cleanup(p.stop)
	if content != nil {
		eventually(t, "the proxy is ready", func() bool { return p.Ready() == nil })
	}
	return p
}

// testOptions are those of a sidecar at ip whose app listens on app. It soon notices new files.
func testOptions(ip, directory string, app netip.AddrPort) Options {
	free := ip + ":0"
	o := Options{Directory: directory, DrainTimeout: 2 * time.Second, NameServers: []netip.AddrPort{}, Records: relay.Records(os.Getenv(recordsVariable)),
		Addresses: Addresses{Outbound: free, Inbound: free, Metrics: free, Health: free, Admin: free},
		Redirect:  Explicit(netip.AddrPort{}, app), Watch: files.WatchOptions{Poll: pollInterval, Debounce: 5 * time.Millisecond}}
	o.Redirect.OwnAddress = func(a netip.Addr) bool { return a == netip.MustParseAddr(appIP) }
	o.Redirect.Clients = clientaddr.Ranges{V4: netip.MustParsePrefix("127.6.0.0/16")} // local wherever tests run
	return o
}

func (p *pod) dials(dst netip.AddrPort) { p.target.Store(&dst) }

func (p *pod) outboundAddr() string        { return p.Addresses().Outbound }
func (p *pod) inboundAddr() netip.AddrPort { return netip.MustParseAddrPort(p.Addresses().Inbound) }
func (p *pod) generation() uint64          { return p.identity.Current().Number }

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

// fetch is the answer of an admin port.
func fetch(method, address, path string) (status int, body string, err error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	request, err := http.NewRequest(method, "http://"+address+path, nil)
	if err != nil {
		return 0, "", err
	}
	request.Header.Set(admin.DrainHeader, "1")
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// get is the answer of the admin port of the pod that knows the path.
func (p *pod) get(t testing.TB, method, path string) (status int, body string) {
	t.Helper()
	for _, address := range []string{p.Addresses().Metrics, p.Addresses().Health, p.Addresses().Admin} {
		var err error
		if status, body, err = fetch(method, address, path); err != nil {
			t.Fatal(err)
		}
		if status != http.StatusNotFound {
			break
		}
	}
	return status, body
}

// scrape is the text of the pod's metrics.
func (p *pod) scrape(t testing.TB) string {
	t.Helper()
	_, text := p.get(t, http.MethodGet, "/metrics")
	return text
}

// liveHeap is how many bytes are reachable.
func liveHeap() uint64 {
	for range 2 { // the second collects what the finalizers of the first, such as those of splice's pipes, let go
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
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
	serveEach(t, l, func(c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		handle(c.(*net.TCPConn))
	})
	return listen.AddrPort(l.Addr())
}

// serveEach serves the connections of l with handle, each in a goroutine, and closes them, until the test ends.
func serveEach(t testing.TB, l net.Listener, handle func(net.Conn)) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
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

// open is a connection through p, as its app opens one, after a round trip.
func (p *pod) open(t testing.TB, text string) *net.TCPConn {
	t.Helper()
	c := dial(t, p.outboundAddr())
	if err := roundTrip(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *pod) mustExchange(t testing.TB, text string) {
	t.Helper()
	if err := exchange(p.outboundAddr(), text); err != nil {
		t.Fatal(err)
	}
}

// awaitClosed waits until the pod takes no new inbound connection.
func (p *pod) awaitClosed(t testing.TB) {
	t.Helper()
	eventually(t, "new inbound connections are refused", func() bool {
		fresh, err := net.Dial("tcp", p.inboundAddr().String())
		if err == nil {
			fresh.Close()
		}
		return err != nil
	})
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
