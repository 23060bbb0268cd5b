package connection

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/files"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/registry"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/telemetry"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// secret is what the app says.
const secret = "the-secret-of-the-app"

// fixedLookup is a resolver for which DNS always says the same.
type fixedLookup struct {
	*destination.Resolver
	mu     sync.Mutex
	lookup destination.Lookup
}

func (f *fixedLookup) Resolve(_ context.Context, mesh *meshmap.Map, dst netip.AddrPort) (destination.Destination, destination.Lookup) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.MapOf(mesh).Decide(dst, f.lookup), f.lookup
}

func (f *fixedLookup) says(l destination.Lookup) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookup = l
}

// trialLab is an outbound proxy and a server at the address of a Service that its map does not know.
type trialLab struct {
	t        *testing.T
	ca       *testca.CA
	snapshot *identity.Snapshot
	resolver *fixedLookup
	registry *registry.Registry
	tele     *telemetry.Telemetry
	out      *outbound
	proxy    string
	logs     *syncBuffer

	server net.Listener
	mu     sync.Mutex
	raw    [][]byte // what each connection to the server brought
}

type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// counted is a connection whose bytes the server keeps.
type counted struct {
	net.Conn
	lab *trialLab
	n   int
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.lab.mu.Lock()
	defer c.lab.mu.Unlock()
	c.lab.raw[c.n] = append(c.lab.raw[c.n], p[:n]...)
	return n, err
}

func newGeneration(t *testing.T, ca *testca.CA, number uint64, changes ...func(*meshmap.Map)) *identity.Snapshot {
	t.Helper()
	directory := t.TempDir()
	proxytest.Workload{CA: ca, Leaf: ca.Issue(t, proxytest.ID("web")), Mesh: proxytest.Mesh(changes...), Workload: podplan.Workload{SPIFFEID: proxytest.ID("web")}}.
		Plain(t).Publish(t, directory)
	generation, err := files.Read(directory)
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := identity.New(generation, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	snapshot.Number = number
	return snapshot
}

// newTrialLab serves every connection to the Service x.prod with serve, which is told the number of the connection.
func newTrialLab(t *testing.T, serve func(l *trialLab, c net.Conn, n int), changes ...func(*meshmap.Map)) *trialLab {
	t.Helper()
	l := &trialLab{t: t, ca: testca.New(t, proxytest.TrustDomain), logs: new(syncBuffer), registry: registry.New()}
	l.snapshot = newGeneration(t, l.ca, 1, changes...)
	l.resolver = &fixedLookup{Resolver: destination.New(destination.Options{}), lookup: destination.Lookup{Names: []destination.Name{{Service: "x.prod", Confirmed: true}}}}
	l.tele = telemetry.New(slog.New(slog.NewJSONHandler(l.logs, nil)))
	var err error
	if l.server, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	go func() {
		for n := 0; ; n++ {
			c, err := l.server.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			l.raw = append(l.raw, nil)
			l.mu.Unlock()
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				serve(l, counted{c, l, n}, n)
			}()
		}
	}()
	engine, err := relay.NewEngine(1, relay.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.proxy = listener.Addr().String()
	l.out = &outbound{resolver: l.resolver, trials: newTrials(time.Now)}
	err = l.out.init("outbound", Config{Listeners: []net.Listener{listener}, OriginalDst: func(*net.TCPConn) (netip.AddrPort, error) { return listen.AddrPort(l.server.Addr()), nil },
		Current: func() *identity.Snapshot { return l.snapshot }, Registry: l.registry, Engine: engine, Telemetry: l.tele}, l.out.prepare)
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() { defer close(served); l.out.Serve(ctx, nil) }()
	t.Cleanup(func() {
		end()
		l.registry.AbortAll(io.EOF)
		<-served
		l.server.Close()
		engine.Close()
	})
	return l
}

// dial opens a connection as the app does.
func (l *trialLab) dial() net.Conn {
	l.t.Helper()
	c, err := net.Dial("tcp", l.proxy)
	if err != nil {
		l.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	l.t.Cleanup(func() { c.Close() })
	return c
}

// say sends the secret and returns what comes back, to its length.
func (l *trialLab) say() (string, error) {
	c, err := net.Dial("tcp", l.proxy)
	if err != nil { // a refusal may be seen as early as by connect
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, secret)
	got := make([]byte, len(secret))
	n, err := io.ReadFull(c, got)
	return string(got[:n]), err
}

// leaked tells whether the secret was on the wire.
func (l *trialLab) leaked() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, raw := range l.raw {
		if bytes.Contains(raw, []byte(secret)) {
			return true
		}
	}
	return false
}

func (l *trialLab) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.raw)
}

func (l *trialLab) metric(name string) string {
	families, err := l.tele.Registry.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	var texts []string
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetCounter().GetValue() > 0 {
				text := ""
				for _, label := range m.GetLabel() {
					text = label.GetValue()
				}
				texts = append(texts, text)
			}
		}
	}
	return strings.Join(texts, " ")
}

// isHello reads the beginning of a connection and tells whether it is a TLS hello.
func isHello(c net.Conn) ([]byte, bool) {
	buffer := make([]byte, 4<<10)
	n, err := c.Read(buffer)
	return buffer[:n], err == nil && buffer[0] == recordTypeHandshake
}

// plain is a server without TLS that does refuse with a hello, and else echoes.
func plain(refuse func(net.Conn)) func(*trialLab, net.Conn, int) {
	return func(_ *trialLab, c net.Conn, _ int) {
		first, hello := isHello(c)
		if hello {
			refuse(c)
			return
		}
		_, _ = c.Write(first)
		_, _ = io.Copy(c, c)
	}
}

// overTLS is a server with TLS of its own; what is no TLS it echoes, so that the test sees it.
func overTLS(config func(*trialLab) *tls.Config) func(*trialLab, net.Conn, int) {
	return func(l *trialLab, c net.Conn, _ int) {
		first, hello := isHello(c)
		if !hello {
			_, _ = c.Write(first)
			_, _ = io.Copy(c, c)
			return
		}
		conn := tls.Server(&rest{c, first}, config(l))
		if conn.Handshake() == nil {
			_, _ = io.Copy(conn, conn)
		}
	}
}

// rest is a connection of which the first bytes were read.
type rest struct {
	net.Conn
	first []byte
}

func (r *rest) Read(p []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(p, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

func serverOf(l *trialLab, id string, changes ...func(*x509.Certificate)) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{l.ca.Issue(l.t, id, changes...)}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{api.ALPN}}
}

func withoutID(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"x.prod.svc.cluster.local"} }

// TestTrial: what each kind of server proves, and that nothing of the app leaves before.
func TestTrial(t *testing.T) {
	foreign := func(id string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			uri, err := url.Parse(id)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = []*url.URL{uri}
		}
	}
	for name, c := range map[string]struct {
		serve  func(*trialLab, net.Conn, int)
		result telemetry.Trial
		plain  bool // the app's bytes pass in plaintext
		works  bool // the app gets its answer
	}{
		"an HTTP server": {plain(func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }), telemetry.TrialNotTLS, true, true},
		"a server that speaks first": {func(_ *trialLab, c net.Conn, _ int) {
			_, _ = io.WriteString(c, "J\x00\x00\x00\x0a5.7.1-MySQL-or-what-it-is")
			_, _ = io.Copy(io.Discard, c)
		}, telemetry.TrialNotTLS, true, false},
		"a server that closes at a hello": {plain(func(net.Conn) {}), telemetry.TrialClosed, true, true},
		"a server that resets at a hello": {plain(func(c net.Conn) { listen.Reset(c.(counted).Conn.(*net.TCPConn)) }), telemetry.TrialClosed, true, true},
		"a server with TLS 1.2": {overTLS(func(l *trialLab) *tls.Config {
			c := serverOf(l, proxytest.ID("x"))
			c.MaxVersion, c.NextProtos = tls.VersionTLS12, nil
			return c
		}), telemetry.TrialAlert, true, true},
		"a server with another ALPN": {overTLS(func(l *trialLab) *tls.Config {
			c := serverOf(l, proxytest.ID("x"))
			c.NextProtos = []string{"h2"}
			return c
		}), telemetry.TrialAlert, true, true},
		"a server with a certificate": {overTLS(func(l *trialLab) *tls.Config {
			c := serverOf(l, proxytest.ID("x"), withoutID)
			c.NextProtos = nil
			return c
		}), telemetry.TrialForeignCertificate, true, true},
		"a server of the mesh": {overTLS(func(l *trialLab) *tls.Config { return serverOf(l, proxytest.ID("x")) }), telemetry.TrialMesh, false, true},
		"one of another namespace": {overTLS(func(l *trialLab) *tls.Config {
			return serverOf(l, "spiffe://cluster.local/ns/evil/deployment/x", func(c *x509.Certificate) { c.DNSNames = []string{"x.prod.svc.cluster.local"} })
		}), telemetry.TrialFailed, false, false},
		"one of another trust domain": {overTLS(func(l *trialLab) *tls.Config {
			return serverOf(l, proxytest.ID("x"), foreign("spiffe://other.example/ns/prod/deployment/x"))
		}), telemetry.TrialFailed, false, false},
		"one whose certificate is over": {overTLS(func(l *trialLab) *tls.Config {
			return serverOf(l, proxytest.ID("x"), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
		}), telemetry.TrialFailed, false, false},
		"one that does not ask who we are": {overTLS(func(l *trialLab) *tls.Config {
			c := serverOf(l, proxytest.ID("x"))
			c.ClientAuth = tls.NoClientCert
			return c
		}), telemetry.TrialFailed, false, false},
		"an alert that a mesh sends too": {plain(func(c net.Conn) { _, _ = c.Write([]byte{21, 3, 3, 0, 2, 2, 80}) }), telemetry.TrialFailed, false, false},
		"a record that is none":          {plain(func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 3, 0, 4, 99, 0, 0, 0}) }), telemetry.TrialFailed, false, false},
		"a server that ends":             {func(l *trialLab, c net.Conn, _ int) { isHello(c); l.server.Close() }, telemetry.TrialFailed, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newTrialLab(t, c.serve)
			got, err := l.say()
			if (got == secret && err == nil) != c.works {
				t.Errorf("the app got %q, %v", got, err)
			}
			if result := l.metric("meshless_mutual_tls_trials_total"); result != string(c.result) {
				t.Errorf("the trial came to %s, want %s\n%s", result, c.result, l.logs)
			}
			waitFor(t, "the connection ends, or the secret arrives", func() bool { return c.works || l.leaked() == c.plain })
			if l.leaked() != c.plain {
				t.Errorf("plaintext on the wire: %t, want %t", l.leaked(), c.plain)
			}
			if passed := l.value("meshless_passed_on_total") == 1; passed != c.plain {
				t.Errorf("counted as passed on: %t", passed)
			}
			if c.plain && !strings.Contains(l.logs.String(), `"msg":"passed on in plaintext: the server proved not to be of the mesh"`) {
				t.Errorf("the log does not say it: %s", l.logs)
			}
		})
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// TestSilentServer: silence proves nothing, and the log says the way out.
func TestSilentServer(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time of a handshake")
	}
	t.Parallel()
	l := newTrialLab(t, func(_ *trialLab, c net.Conn, _ int) { _, _ = io.Copy(io.Discard, c) })
	if got, err := l.say(); err == nil {
		t.Errorf("the app got %q", got)
	}
	if l.leaked() || !strings.Contains(l.logs.String(), `"handshake_failure":"inconclusive"`) || !strings.Contains(l.logs.String(), "outbound.plaintextServices") {
		t.Errorf("leaked: %t; the log: %s", l.leaked(), l.logs)
	}
}

// TestVerdictIsRemembered: a server is tried once in a while, and by one connection at a time.
func TestVerdictIsRemembered(t *testing.T) {
	t.Parallel()
	l := newTrialLab(t, plain(func(net.Conn) {}))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if got, err := l.say(); got != secret {
				t.Errorf("the app got %q, %v", got, err)
			}
		})
	}
	all.Wait()
	if got := l.connections(); got != closesOfForeign+20 {
		t.Errorf("%d connections, want one trial of %d and 20", got, closesOfForeign)
	}
	if got := strings.Count(l.logs.String(), `"msg":"passed on`); got != 1 {
		t.Errorf("%d lines", got)
	}
	l.out.trials.mu.Lock()
	l.out.trials.now = func() time.Time { return time.Now().Add(foreignTime) }
	l.out.trials.mu.Unlock()
	_, _ = l.say()
	if got := l.connections(); got != 2*closesOfForeign+21 {
		t.Errorf("%d connections after the verdict is over", got)
	}
}

// TestProvedMeshStays: a server that was of the mesh gets no plaintext, whatever it does now; nor does another port of
// its address that only closes.
func TestProvedMeshStays(t *testing.T) {
	t.Parallel()
	l := newTrialLab(t, func(l *trialLab, c net.Conn, n int) {
		if n == 0 {
			overTLS(func(l *trialLab) *tls.Config { return serverOf(l, proxytest.ID("x")) })(l, c, n)
		}
	})
	if got, err := l.say(); got != secret {
		t.Fatalf("the app got %q, %v", got, err)
	}
	for range closesOfForeign + 1 {
		if got, err := l.say(); err == nil {
			t.Errorf("the app got %q", got)
		}
	}
	first := listen.AddrPort(l.server.Addr())
	l.out.trials.mu.Lock()
	delete(l.out.trials.verdicts, first) // as if it were another port
	l.out.trials.mu.Unlock()
	if got, err := l.say(); err == nil || l.leaked() {
		t.Errorf("the app got %q; leaked: %t", got, l.leaked())
	}
}

// TestDenyNeverPassesOn: with outbound.unknown Deny nothing is passed on, whatever a server proves.
func TestDenyNeverPassesOn(t *testing.T) {
	t.Parallel()
	l := newTrialLab(t, plain(func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }), func(m *meshmap.Map) { m.Outbound.Unknown = meshmap.DenyUnknown })
	if got, err := l.say(); err == nil || l.leaked() {
		t.Errorf("the app got %q; leaked: %t", got, l.leaked())
	}
}

// TestPassedOnUnderANewMap: what was passed on stays while nothing new is known, and ends when the map says mutual TLS,
// or Deny.
func TestPassedOnUnderANewMap(t *testing.T) {
	t.Parallel()
	listed := func(m *meshmap.Map) {
		m.Services = []meshmap.Service{{Host: "x.prod.svc.cluster.local", Identities: []string{proxytest.ID("x")}}}
	}
	for name, c := range map[string]struct {
		change func(*meshmap.Map)
		stays  bool
	}{
		"nothing": {func(*meshmap.Map) {}, true}, "outside": {func(m *meshmap.Map) { m.Outside = []string{"x.prod"} }, true},
		"in the mesh": {listed, false}, "Deny": {func(m *meshmap.Map) { m.Outbound.Unknown = meshmap.DenyUnknown }, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newTrialLab(t, plain(func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400\r\n") }))
			app := l.dial()
			exchange := func() error {
				if _, err := io.WriteString(app, secret); err != nil {
					return err
				}
				_, err := io.ReadFull(app, make([]byte, len(secret)))
				return err
			}
			if err := exchange(); err != nil {
				t.Fatal(err)
			}
			l.registry.Reconsider(newGeneration(t, l.ca, 2, c.change))
			if err := exchange(); (err == nil) != c.stays {
				t.Errorf("after the change: %v", err)
			}
		})
	}
}

// TestKnownByTheMap: a verdict is dropped once the address is known to be of the mesh.
func TestKnownByTheMap(t *testing.T) {
	t.Parallel()
	l := newTrialLab(t, plain(func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400\r\n") }))
	if got, err := l.say(); got != secret {
		t.Fatalf("the app got %q, %v", got, err)
	}
	l.resolver.says(destination.Lookup{Names: []destination.Name{{Service: "x.prod", Confirmed: true}, {Service: "meshless-members-test.prod", Endpoint: true, Confirmed: true}}})
	if got, err := l.say(); err == nil {
		t.Errorf("the app got %q", got)
	}
	l.out.trials.mu.Lock()
	defer l.out.trials.mu.Unlock()
	if len(l.out.trials.verdicts) != 0 {
		t.Errorf("the verdict is still there: %v", l.out.trials.verdicts)
	}
}

// TestUnanswered: a server that closes without a word once the app has spoken is told of, once; one at which the client
// ends first is not.
func TestUnanswered(t *testing.T) {
	t.Parallel()
	closing := func(_ *trialLab, c net.Conn, _ int) { _, _ = c.Read(make([]byte, 100)) }
	outside := destination.Lookup{Names: []destination.Name{{Service: "x.elsewhere", Confirmed: true}}}
	l := newTrialLab(t, closing)
	l.resolver.says(outside)
	for range 3 {
		_, _ = l.say()
	}
	waitFor(t, "three are counted", func() bool { return l.value("meshless_unanswered_plaintext_total") == 3 })
	if got := strings.Count(l.logs.String(), `"msg":"plaintext connection closed without an answer"`); got != 1 {
		t.Errorf("%d lines: %s", got, l.logs)
	}

	l = newTrialLab(t, func(_ *trialLab, c net.Conn, _ int) { _, _ = io.Copy(io.Discard, c) })
	l.resolver.says(outside)
	c := l.dial()
	_, _ = io.WriteString(c, secret)
	_ = c.(*net.TCPConn).CloseWrite()
	_, _ = io.ReadAll(c)
	waitFor(t, "it ends", func() bool { return strings.Contains(l.logs.String(), "connection closed") })

	remote := newTrialLab(t, closing)
	remote.resolver.says(destination.Lookup{Remote: true})
	_, _ = remote.say()
	waitFor(t, "it ends", func() bool { return strings.Contains(remote.logs.String(), "connection closed") })
	if l.value("meshless_unanswered_plaintext_total")+remote.value("meshless_unanswered_plaintext_total") != 0 {
		t.Error("a client that ends first, or a server on the Internet, is counted")
	}
}

func (l *trialLab) value(name string) (sum float64) {
	families, err := l.tele.Registry.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestVerdictsAreBounded: the memory is, and a trial under way is not lost.
func TestVerdictsAreBounded(t *testing.T) {
	now := time.Now()
	trials := newTrials(func() time.Time { return now })
	for i := range 2 * maxVerdicts {
		dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
		over, first := trials.begin(dst)
		if !first {
			t.Fatalf("%s is known", dst)
		}
		if again, first := trials.begin(dst); first || again != over {
			t.Fatalf("%s is tried twice at once", dst)
		}
		over.result = telemetry.TrialClosed
		trials.conclude(dst, over)
	}
	if len(trials.verdicts) > maxVerdicts || len(trials.running) != 0 {
		t.Errorf("%d verdicts, %d trials", len(trials.verdicts), len(trials.running))
	}
}

// TestAcceptedBy: the log says by what a server was accepted.
func TestAcceptedBy(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*x509.Certificate){
		"namespace": func(*x509.Certificate) {}, "leaf": func(c *x509.Certificate) { c.DNSNames = []string{"x.prod.svc.cluster.local"} },
	} {
		l := newTrialLab(t, overTLS(func(l *trialLab) *tls.Config { return serverOf(l, proxytest.ID("x"), change) }))
		if got, err := l.say(); got != secret {
			t.Fatalf("the app got %q, %v", got, err)
		}
		waitFor(t, "the line", func() bool { return strings.Contains(l.logs.String(), `"msg":"connection closed"`) })
		if !strings.Contains(l.logs.String(), `"accepted_by":"`+want+`"`) {
			t.Errorf("no accepted_by %s: %s", want, l.logs)
		}
	}
}
