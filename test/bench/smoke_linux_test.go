package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/program"
)

func TestMain(m *testing.M) {
	enterWorker() // the workers are this binary
	code := m.Run()
	if builtIn != "" {
		_ = os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// newTestBench is a run of loads that take a moment.
func newTestBench(t *testing.T) *bench {
	t.Helper()
	b, err := newBench(options{duration: 150 * time.Millisecond, warmup: 20 * time.Millisecond, settle: 10 * time.Millisecond, idle: []int{40}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b
}

// buildOnce builds our programs once for all tests; TestMain removes them.
var buildOnce = sync.OnceValues(func() (binaries, error) {
	var err error
	if builtIn, err = os.MkdirTemp("", "meshless-bench-build-"); err != nil {
		return binaries{}, err
	}
	if err := os.Chmod(builtIn, 0o755); err != nil { // the redirected proxy runs as another user
		return binaries{}, err
	}
	return buildOurs("../..", builtIn, false)
})

var builtIn string

// smoked are the measures of TestSmoke; ours has the rest as well, but for TestReload's.
var smoked = []string{"bulk-up-8", "bulk-down-1", "connections", "rate", "memory", "start", "pass-up-1"}

// TestSmoke measures a moment with every peer that is here. check, which comes first, refuses a peer that alters bytes
// or that serves whom it must not.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("starts some hundred processes and builds the proxy: run it without -short")
	}
	b := newTestBench(t)
	var err error
	if b.ours, err = buildOnce(); err != nil {
		t.Fatal(err)
	}
	for _, p := range allPeers {
		t.Run(p.name, func(t *testing.T) {
			if why := p.missing(b); why != "" {
				program.Missing(t, "every peer: %s", why)
			}
			c, err := b.check(p)
			if err != nil {
				t.Fatal(err)
			}
			want := checked{Bytes: 1 << 20}
			if p.tls && !p.pods {
				want = checked{1 << 20, "TLS 1.3", "TLS_AES_128_GCM_SHA256", "X25519"}
			}
			if p.name == "ours" {
				want.Group = "X25519MLKEM768"
			}
			if c != want {
				t.Errorf("checked: %+v, want %+v", c, want)
			}
			for _, m := range allMeasures {
				if m.peers(p) && !p.slow && (p.name == "ours" || slices.Contains(smoked, m.name)) {
					smoke(t, b, p, m)
				}
			}
		})
	}
}

// smoke runs one measure. No figure is judged, but there must be one: where a busy machine lets nothing happen in the
// time of a test, longer times are tried.
func smoke(t *testing.T, b *bench, p peer, m measure) {
	t.Helper()
	long := *b
	var problem string
	for range 3 {
		v, err := m.run(&long, p, m.name)
		problem = text(err)
		for key, got := range v {
			if got <= 0 && !slices.Contains([]string{"lost", "kib_conn_0"}, key) {
				problem = fmt.Sprintf("%s is %v", key, got)
			}
		}
		if problem == "" {
			return
		}
		long.duration *= 4
	}
	t.Errorf("%s: %s", m.name, problem)
}

// TestReload: what a reload costs is measured of reloads that happen. After one, the server side shows the certificate
// that was issued last.
func TestReload(t *testing.T) {
	if testing.Short() {
		t.Skip("starts every peer and builds the proxy: run it without -short")
	}
	b := newTestBench(t)
	var err error
	if b.ours, err = buildOnce(); err != nil {
		t.Fatal(err)
	}
	good := b.authority.issue("client")
	for _, p := range allPeers {
		if p.reload == nil || p.pods || p.missing(b) != "" {
			continue // who is missing is said by TestSmoke
		}
		r, err := b.startPair(p, want{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.stop)
		serial := func() string {
			state, err := b.exchangeTLS(r.serverSide.listen, good)
			if err != nil {
				return "" // a moment in which nobody listens is not what is asked here
			}
			return state.PeerCertificates[0].SerialNumber.String()
		}
		before, after := serial(), ""
		if err := r.reload(r.serverSide, r.server); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if after = serial(); after != "" && after != before {
				break
			}
		}
		if before == "" || after == "" || after == before {
			t.Errorf("%s: serial %q before a reload, %q after it", p.name, before, after)
		}
	}
}

// TestCheckFindsCarelessServers: what check must refuse is refused, so that its silence means something.
func TestCheckFindsCarelessServers(t *testing.T) {
	b := newTestBench(t)
	leaf := b.authority.issue("server")
	for want, config := range map[string]*tls.Config{
		"without a certificate is served":   {ClientAuth: tls.NoClientCert, SessionTicketsDisabled: true},
		"of another authority is served":    {ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true},
		"it resumes sessions":               {ClientAuth: tls.RequireAnyClientCert},
		"a client with a certificate is re": {MaxVersion: tls.VersionTLS12},
	} {
		config.Certificates, config.NextProtos = []tls.Certificate{leaf}, []string{api.ALPN}
		l, err := tls.Listen("tcp4", "127.0.0.1:0", config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go serveEcho(l)
		r := &pair{serverSide: side{listen: addrOf(l)}}
		if err := b.checkServerSide(r, &checked{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// TestCheckFindsAlteredBytes: a relay that flips one bit is found.
func TestCheckFindsAlteredBytes(t *testing.T) {
	b := newTestBench(t)
	for flip, ok := range map[byte]bool{0: true, 1: false} {
		entry := serveOn(t, func(c net.Conn) {
			buffer, total := make([]byte, 32<<10), 0
			for {
				n, err := c.Read(buffer)
				if err != nil {
					return
				}
				data := buffer[:n]
				if total == 0 {
					data = data[1:] // the mode
				}
				if before := total; before < 5000 && before+n > 5000 {
					data[len(data)-1] ^= flip
				}
				total += n
				if _, err := c.Write(data); err != nil {
					return
				}
			}
		})
		if _, err := (&pair{generator: b.host, entry: entry}).echoBytes(1 << 16); (err == nil) != ok {
			t.Errorf("flipped by %d: %v", flip, err)
		}
	}
}

// TestOpenLoopSeesStalls: what was due while a server stalled counts from when it was due (no coordinated omission). A
// closed loop would see one slow answer.
func TestOpenLoopSeesStalls(t *testing.T) {
	b := newTestBench(t)
	const stall = 200 * time.Millisecond
	entry := serveOn(t, func(c net.Conn) {
		buffer, stalls := make([]byte, messageSize), 0
		_, _ = c.Read(buffer[:1])
		for began := time.Now(); ; {
			n, err := c.Read(buffer)
			if err != nil {
				return
			}
			if stalls == 0 && time.Since(began) > 150*time.Millisecond {
				stalls++
				time.Sleep(stall)
			}
			if _, err := c.Write(buffer[:n]); err != nil {
				return
			}
		}
	})
	nothing := func() error { return nil }
	got, err := b.host.generate(loadSpec{Target: entry, Kind: loadExchange, Connections: 1, Rate: 1000, Duration: 500 * time.Millisecond}, b.dir, nothing, nothing)
	if err != nil {
		t.Fatal(err)
	}
	// 200 of the 500 messages were due meanwhile, so far more than one in ten waited for a good part of the stall.
	if got.Requests < 450 || got.Failures > 0 || got.Latencies.P90 < float64(stall.Microseconds())/4 {
		t.Errorf("%+v", got)
	}
}

// TestLoadCountsFailures: a server that goes away is no silent gap in the figures.
func TestLoadCountsFailures(t *testing.T) {
	b := newTestBench(t)
	entry := serveOn(t, func(c net.Conn) {
		buffer := make([]byte, messageSize+1)
		if n, err := c.Read(buffer); err == nil && n > 1 {
			_, _ = c.Write(buffer[1:n])
		}
	})
	nothing := func() error { return nil }
	got, err := b.host.generate(loadSpec{Target: entry, Kind: loadExchange, Connections: 2, Duration: 100 * time.Millisecond}, b.dir, nothing, nothing)
	if err == nil && got.Failures == 0 {
		t.Errorf("%+v", got)
	}
	if _, err := b.host.generate(loadSpec{Target: b.loopback(), Kind: loadFresh, Connections: 2, Duration: 100 * time.Millisecond}, b.dir, nothing, nothing); err == nil {
		t.Error("nobody listens, and the load succeeds")
	}
}

// TestCPU: the CPU time of a process is what it used.
func TestCPU(t *testing.T) {
	pids := []int{os.Getpid()}
	before := cpu(pids)
	x := 1
	for began := time.Now(); time.Since(began) < 5*time.Second && cpu(pids)-before < 50*time.Millisecond; {
		for range 1000 {
			x = x*3 + 1
		}
	}
	if got := cpu(pids) - before; got < 50*time.Millisecond {
		t.Errorf("five seconds of work are %s (%d)", got, x)
	}
}

func serveOn(t *testing.T, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				handle(c)
			}()
		}
	}()
	return addrOf(l)
}

func addrOf(l net.Listener) netip.AddrPort { return netip.MustParseAddrPort(l.Addr().String()) }
