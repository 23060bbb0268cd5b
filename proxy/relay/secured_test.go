package relay_test

import (
	"bytes"
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/test/testca"
)

// tunnel is what two proxies make of one connection: near and far are the apps, two sessions lie between, and TLS
// between those.
type tunnel struct {
	near, far    *net.TCPConn
	ours, theirs *relay.Session
	ends         chan relay.Result // of both sessions
}

type tunnels struct {
	engine         *relay.Engine
	records        relay.Records
	client, server *tls.Config
}

// recordsVariable says by which record layer the tests are to run; default relay.Own.
const recordsVariable = "MESHLESS_TEST_RECORDS"

func newTunnels(t testing.TB) *tunnels {
	t.Helper()
	engine, err := relay.NewEngine(runtime.NumCPU(), relay.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(engine.Close)
	leaf := testca.New(t, "cluster.local").Issue(t, "spiffe://cluster.local/ns/prod/deployment/web")
	// what is tested comes behind the handshake
	return &tunnels{engine: engine, records: relay.Records(os.Getenv(recordsVariable)), client: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true},
		server: &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, Certificates: []tls.Certificate{leaf}}}
}

func (ts *tunnels) open(t testing.TB, idle time.Duration) *tunnel {
	t.Helper()
	return ts.openAfter(t, idle, func(_, _ *net.TCPConn) {})
}

// openAfter hands the sockets of the two apps to before, and then begins the sessions.
func (ts *tunnels) openAfter(t testing.TB, idle time.Duration, before func(near, far *net.TCPConn)) *tunnel {
	t.Helper()
	near, a := pair(t)
	b, far := pair(t)
	_ = far.SetDeadline(time.Now().Add(20 * time.Second))
	client, server := ts.handshake(t)
	before(near, far)
	o := relay.Options{Idle: idle}
	tn := &tunnel{near: near, far: far, ends: make(chan relay.Result, 2),
		ours: relay.New(relay.Plain(a), client, o), theirs: relay.New(server, relay.Plain(b), o)}
	for _, s := range []*relay.Session{tn.ours, tn.theirs} {
		s.Start(ts.engine, func(r relay.Result) { tn.ends <- r })
	}
	return tn
}

// handshake is both ends of a connection.
func (ts *tunnels) handshake(t testing.TB) (client, server *relay.Side) {
	t.Helper()
	wireA, wireB := pair(t)
	deadline := time.Now().Add(10 * time.Second)
	var serverErr error
	var handshake sync.WaitGroup
	handshake.Go(func() {
		server, _, serverErr = ts.records.Secure(wireB, nil, relay.Server, ts.server.Clone(), deadline, nil)
	})
	client, _, clientErr := ts.records.Secure(wireA, nil, relay.Client, ts.client.Clone(), deadline, nil)
	handshake.Wait()
	if err := errors.Join(clientErr, serverErr); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// accept serves wire, whose peer does its handshake now, for an app. It is nil after an error.
func (ts *tunnels) accept(t testing.TB, wire, app *net.TCPConn) (*relay.Session, chan relay.Result) {
	t.Helper()
	server, _, err := ts.records.Secure(wire, nil, relay.Server, ts.server.Clone(), time.Now().Add(10*time.Second), nil)
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	ends := make(chan relay.Result, 1)
	s := relay.New(server, relay.Plain(app), relay.Options{})
	s.Start(ts.engine, func(r relay.Result) { ends <- r })
	return s, ends
}

// wantEnds waits for both sessions and returns their results.
func (tn *tunnel) wantEnds(t testing.TB) []relay.Result {
	t.Helper()
	var results []relay.Result
	for range 2 {
		select {
		case r := <-tn.ends:
			results = append(results, r)
		case <-time.After(20 * time.Second):
			t.Fatal("a session does not end")
		}
	}
	return results
}

// send writes n random bytes in pieces of any size, ends that direction, and returns the digest.
func send(c *net.TCPConn, n int, seed uint64) (sum [32]byte, err error) {
	random := mathrand.New(mathrand.NewPCG(seed, 1))
	h := sha256.New()
	for n > 0 {
		piece := make([]byte, min(n, 1+random.IntN(1<<random.IntN(19))))
		_, _ = rand.Read(piece)
		h.Write(piece)
		if _, err := c.Write(piece); err != nil {
			return sum, err
		}
		n -= len(piece)
	}
	h.Sum(sum[:0])
	return sum, c.CloseWrite()
}

// receive reads to the end, now and then slowly.
func receive(c *net.TCPConn, seed uint64) (sum [32]byte, err error) {
	random := mathrand.New(mathrand.NewPCG(seed, 2))
	h := sha256.New()
	for {
		piece := make([]byte, 1+random.IntN(1<<random.IntN(18)))
		n, err := c.Read(piece)
		h.Write(piece[:n])
		if err == io.EOF {
			h.Sum(sum[:0])
			return sum, nil
		}
		if err != nil {
			return sum, err
		}
		if random.IntN(50) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// TestStreamsArriveWhole: many connections at once, both directions of each at once, in pieces of every size, with
// readers that pause and with socket buffers that fill: every byte arrives in its place, and both ends are passed on.
func TestStreamsArriveWhole(t *testing.T) {
	ts := newTunnels(t)
	var all sync.WaitGroup
	for i := range uint64(24) {
		tn := ts.open(t, 0)
		_ = tn.near.SetReadBuffer(128 << 10)
		_ = tn.far.SetReadBuffer(128 << 10)
		sizes := [2]int{1 << (i % 23), 3<<20 - 1<<(i%20)}
		for j, ends := range [2][2]*net.TCPConn{{tn.near, tn.far}, {tn.far, tn.near}} {
			all.Go(func() {
				var sent, got [32]byte
				var sendErr, receiveErr error
				var reading sync.WaitGroup
				reading.Go(func() { got, receiveErr = receive(ends[1], i) })
				sent, sendErr = send(ends[0], sizes[j], i)
				reading.Wait()
				if err := errors.Join(sendErr, receiveErr); err != nil || sent != got {
					t.Errorf("connection %d, direction %d, %d bytes: %v; equal: %t", i, j, sizes[j], err, sent == got)
				}
			})
		}
		all.Go(func() {
			for _, r := range tn.wantEnds(t) {
				if r.Err != nil || r.Received != int64(sizes[0]) || r.Sent != int64(sizes[1]) {
					t.Errorf("connection %d of %v bytes ended as %+v", i, sizes, r)
				}
			}
		})
	}
	all.Wait()
}

// TestCutIsNoEnd: somebody on the path ends the TCP stream between the proxies. Neither app may take that for the end
// of its peer's message.
func TestCutIsNoEnd(t *testing.T) {
	ts := newTunnels(t)
	tn := ts.open(t, 0)
	if _, err := tn.near.Write([]byte("half a message")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(tn.far, make([]byte, 14)); err != nil {
		t.Fatal(err)
	}
	tn.ours.Abort(errors.New("cut")) // to the other session it looks as if the path between them broke
	for name, c := range map[string]*net.TCPConn{"near": tn.near, "far": tn.far} {
		if _, err := io.Copy(io.Discard, c); err == nil {
			t.Errorf("%s saw an orderly end", name)
		}
	}
	for _, r := range tn.wantEnds(t) {
		if r.Err == nil {
			t.Errorf("ended as %+v", r)
		}
	}
}

// TestResetPassesTheTunnel: an app that resets, while data for it is stuck everywhere, is an error for the other one.
func TestResetPassesTheTunnel(t *testing.T) {
	ts := newTunnels(t)
	for range 20 {
		tn := ts.open(t, 0)
		_ = tn.near.SetReadBuffer(4096)
		_ = tn.far.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := tn.far.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the buffers do not fill: %v", err)
		}
		_ = tn.near.SetLinger(0)
		_ = tn.near.Close()
		if _, err := io.Copy(io.Discard, tn.far); err == nil {
			t.Fatal("the reset arrived as an orderly end")
		}
		for _, r := range tn.wantEnds(t) {
			if r.Err == nil {
				t.Fatalf("ended as %+v", r)
			}
		}
	}
}

func TestAbortWhileBlocked(t *testing.T) {
	ts := newTunnels(t)
	tn := ts.open(t, 0)
	_ = tn.near.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	_, _ = tn.near.Write(make([]byte, 64<<20)) // until nothing moves
	first, second := errors.New("first"), errors.New("second")
	tn.theirs.Abort(first)
	tn.theirs.Abort(second)
	causes := map[error]bool{}
	for _, r := range tn.wantEnds(t) {
		causes[r.Err] = true
	}
	if !causes[first] || causes[second] || causes[nil] {
		t.Errorf("got %v", causes)
	}
	if err := tn.ours.Unresponsive(); err != nil {
		t.Errorf("a session that has ended is unresponsive: %v", err)
	}
}

func TestAbortBeforeTheEngine(t *testing.T) {
	ts := newTunnels(t)
	near, a := pair(t)
	client, _ := ts.handshake(t)
	s := relay.New(relay.Plain(a), client, relay.Options{})
	early := errors.New("early")
	s.Abort(early)
	ends := make(chan relay.Result, 1)
	s.Start(ts.engine, func(r relay.Result) { ends <- r })
	if r := wait(t, ends); r.Err != early {
		t.Errorf("got %+v", r)
	}
	if _, err := near.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the app got %v, want a reset", err)
	}
}

func TestIdleTunnel(t *testing.T) {
	ts := newTunnels(t)
	tn := ts.open(t, 300*time.Millisecond)
	for range 6 { // one direction keeps both alive
		time.Sleep(80 * time.Millisecond)
		if _, err := tn.near.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if got := make([]byte, 6); true {
		if _, err := io.ReadFull(tn.far, got); err != nil || !bytes.Equal(got, []byte("xxxxxx")) {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	idle := 0
	for _, r := range tn.wantEnds(t) {
		if r.Err == relay.ErrIdle {
			idle++
		}
	}
	if idle == 0 {
		t.Error("nobody ended it for being idle")
	}
}

// TestEarlyData: what a client sends together with the end of its handshake is not lost, however much it is.
func TestEarlyData(t *testing.T) {
	ts := newTunnels(t)
	for _, n := range []int{1, 3000, 100_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			wireA, wireB := pair(t)
			b, far := pair(t)
			_ = far.SetDeadline(time.Now().Add(20 * time.Second))
			go func() {
				conn := tls.Client(wireA, ts.client)
				_, _ = conn.Write(make([]byte, n)) // with the last flight of the handshake
				_ = conn.CloseWrite()
			}()
			server, _, err := ts.records.Secure(wireB, nil, relay.Server, ts.server.Clone(), time.Now().Add(10*time.Second), nil)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond) // all of it is there before the relay
			relay.New(server, relay.Plain(b), relay.Options{}).Start(ts.engine, func(relay.Result) {})
			if got, err := io.ReadAll(far); err != nil || len(got) != n {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
}

// TestStandardRecords runs the tests above where crypto/tls keeps its records: by choice, and in FIPS mode.
func TestStandardRecords(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	if fips140.Enabled() || os.Getenv(recordsVariable) != "" {
		t.Skip("this is such a run")
	}
	for _, setting := range []string{recordsVariable + "=" + string(relay.Standard), "GODEBUG=fips140=on"} {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=Streams|Cut|Reset|Abort|Idle|Early|Sequences|HalfClose", "-test.timeout=300s")
		c.Env = append(os.Environ(), setting)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("with %s: %v\n%s", setting, err, out)
		}
	}
}
