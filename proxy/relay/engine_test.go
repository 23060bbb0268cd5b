//go:build linux

package relay_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/proxy/relay"
)

// TestUrgentData: a read stops at an urgent mark, short, though there is more behind it: a short read does not prove
// that the socket is empty.
func TestUrgentData(t *testing.T) {
	ts := newTunnels(t)
	tn := ts.openAfter(t, 0, func(near, _ *net.TCPConn) {
		raw, err := near.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			for _, piece := range []struct {
				text  string
				flags int
			}{{"before", 0}, {"!", unix.MSG_OOB}, {"behind", 0}} {
				if err := unix.Sendto(int(fd), []byte(piece.text), piece.flags, nil); err != nil {
					t.Error(err)
				}
			}
		})
		time.Sleep(50 * time.Millisecond)
	})
	_ = tn.far.SetReadDeadline(time.Now().Add(3 * time.Second))
	got := make([]byte, 12)
	n, err := io.ReadFull(tn.far, got)
	if err != nil {
		t.Errorf("the app sent %q, !, %q and got an answer to neither; the other app got %q: %v", "before", "behind", got[:n], err)
	}
}

// TestSlowReadersMemory: clients of one proxy that ask for much and do not read. Beyond maxLarge buffers each may hold
// a medium one and no more.
func TestSlowReadersMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	ts := newTunnels(t)
	const many = 150
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var ends []chan relay.Result
	var sessions []*relay.Session
	var apps []*net.TCPConn
	for range many {
		wireA, wireB := pair(t)
		b, far := pair(t)
		_ = wireA.SetReadBuffer(4096)
		go func() { _ = tls.Client(wireA, ts.client).Handshake() }() // and it reads no more
		s, end := ts.accept(t, wireB, b)
		sessions, apps, ends = append(sessions, s), append(apps, far), append(ends, end)
	}
	before := heap()
	for _, app := range apps {
		_ = app.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = app.Write(make([]byte, 64<<20))
	}
	after := heap()
	t.Logf("%d clients that do not read hold %d KiB each", many, (int64(after)-int64(before))/many>>10)
	allowed := int64(64*(140<<10) + many*(17<<10)) // the large buffers, and a medium one
	if grown := int64(after) - int64(before); grown > allowed {
		t.Errorf("the buffers take %d MiB, the large and medium ones %d", grown>>20, allowed>>20)
	}
	for _, s := range sessions {
		s.Abort(errors.New("end"))
	}
	for _, end := range ends {
		wait(t, end)
	}
}

// TestAbortAfterClose: an engine that is closed while a session lives. Its number of a descriptor may be somebody
// else's by then.
func TestAbortAfterClose(t *testing.T) {
	ts := newTunnels(t)
	engine, err := relay.NewEngine(runtime.NumCPU(), relay.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	own := &tunnels{engine: engine, client: ts.client, server: ts.server}
	tn := own.open(t, 0)
	if _, err := tn.near.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(tn.far, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	engine.Close()
	// Somebody opens files: a log, a connection of an app. Pipes show what is written to them.
	var readers []*os.File
	for range 16 {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		r, w := os.NewFile(uintptr(p[0]), "r"), os.NewFile(uintptr(p[1]), "w")
		t.Cleanup(func() { r.Close(); w.Close() })
		readers = append(readers, r)
	}
	if os.Getenv(recordsVariable) == "" && relay.Own.InForce() == relay.Own { // else goroutines move the bytes
		late := own.open(t, 0) // its sessions end at once, and do not hang
		late.wantEnds(t)
		if _, err := late.near.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the app of a session without a loop got %v, want a reset", err)
		}
	}
	tn.ours.Abort(errors.New("late"))
	tn.theirs.Abort(errors.New("late"))
	for _, r := range readers {
		_ = r.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		b := make([]byte, 64)
		if n, err := r.Read(b); n > 0 {
			t.Errorf("Abort wrote % x into a descriptor that is not the engine's (%v)", b[:n], err)
		}
	}
}

// TestAnswerBeforeReset: an app answers early, and closes without having read everything (413 of an HTTP server). Its
// answer was acknowledged by our kernel before the reset came.
func TestAnswerBeforeReset(t *testing.T) {
	ts := newTunnels(t)
	lost := 0
	const tries = 60
	most := tries / 10
	if ts.records.InForce() == relay.Standard {
		// goroutines: who reads is not stopped by who cannot write, which loses a third or more (docs/proxy.md)
		most = tries * 9 / 10
	}
	for range tries {
		tn := ts.open(t, 0)
		go func() {
			b := make([]byte, 1<<16)
			for {
				if _, err := tn.near.Write(b); err != nil {
					return
				}
			}
		}()
		_, _ = io.ReadFull(tn.far, make([]byte, 100<<10))
		_, _ = tn.far.Write([]byte("413"))
		_ = tn.far.Close() // with unread data: a reset follows the answer
		got := make([]byte, 3)
		if _, err := io.ReadFull(tn.near, got); err != nil {
			lost++
		}
		tn.ours.Abort(errors.New("end"))
		tn.theirs.Abort(errors.New("end"))
		tn.wantEnds(t)
	}
	t.Logf("%d of %d answers were lost", lost, tries)
	if lost > most {
		t.Error("an answer that our kernel had acknowledged is lost")
	}
}

// TestForgedRecordIsNoAlert: what is logged of a stream that somebody has forged.
func TestForgedRecordIsNoAlert(t *testing.T) {
	ts := newTunnels(t)
	wireA, wireB := pair(t)
	b, _ := pair(t)
	go func() {
		conn := tls.Client(wireA, ts.client)
		_ = conn.Handshake()
		_, _ = wireA.Write([]byte{23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20})
	}()
	_, ends := ts.accept(t, wireB, b)
	var op *net.OpError
	if r := wait(t, ends); !errors.As(r.Err, &op) || op.Op != "local error" {
		t.Errorf("a forged record is no breach by the peer: %v", r.Err)
	}
}
