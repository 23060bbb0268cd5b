package relay_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/relay"
)

// pair is a real TCP connection: net.Pipe would hide splice and half-close.
func pair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(accepted)
			return
		}
		accepted <- c
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, ok := <-accepted
	if !ok {
		t.Fatal("not accepted")
	}
	t.Cleanup(func() { c.Close(); other.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn), other.(*net.TCPConn)
}

// isReset tells whether a session ended because one side reset it, or was reset.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)
}

// spliced starts a session between two plain connections and returns their far ends.
func spliced(t *testing.T, o relay.Options) (client, server *net.TCPConn, session *relay.Session, result chan relay.Result) {
	t.Helper()
	client, a := pair(t)
	server, b := pair(t)
	session = relay.New(relay.Plain(a), relay.Plain(b), o)
	result = make(chan relay.Result, 1)
	session.Start(nil, func(r relay.Result) { result <- r }) // plain sides are not the engine's
	return client, server, session, result
}

func wait(t *testing.T, result chan relay.Result) relay.Result {
	t.Helper()
	select {
	case r := <-result:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("the session does not end")
		return relay.Result{}
	}
}

func TestBothDirectionsWithHalfClose(t *testing.T) {
	var received, sent atomic.Int64
	client, server, _, result := spliced(t, relay.Options{Prefix: []byte("pre"), Received: func(n int64) { received.Add(n) }, Sent: func(n int64) { sent.Add(n) }})
	toServer, toClient := make([]byte, 9<<20), make([]byte, 5<<20)
	_, _ = rand.Read(toServer)
	_, _ = rand.Read(toClient)
	go func() {
		_, _ = client.Write(toServer)
		_ = client.CloseWrite()
	}()
	if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, append([]byte("pre"), toServer...)) {
		t.Fatalf("server got %d bytes, %v", len(got), err)
	}
	go func() { // only now, so the half that is open carries data for itself
		_, _ = server.Write(toClient)
		_ = server.CloseWrite()
	}()
	if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, toClient) {
		t.Fatalf("client got %d bytes, %v", len(got), err)
	}
	want := relay.Result{Received: int64(len(toServer)) + 3, Sent: int64(len(toClient))}
	if got := wait(t, result); got != want || received.Load() != want.Received || sent.Load() != want.Sent {
		t.Errorf("got %+v, counted %d and %d; want %+v", got, received.Load(), sent.Load(), want)
	}
}

func TestResetIsPassedOn(t *testing.T) {
	client, server, _, result := spliced(t, relay.Options{})
	_ = client.SetLinger(0)
	client.Close()
	if _, err := io.ReadAll(server); err == nil {
		t.Error("server saw an orderly end")
	}
	if got := wait(t, result); !isReset(got.Err) {
		t.Errorf("got %+v", got)
	}
}

func TestIdle(t *testing.T) {
	begun := time.Now()
	const idle = time.Second // a pause of a quarter may take longer on a busy machine, but not four times as long
	client, server, _, result := spliced(t, relay.Options{Idle: idle})
	for range 8 { // one direction keeps both alive, though each write is less than a chunk
		time.Sleep(idle / 4)
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if got := make([]byte, 8); true {
		if _, err := io.ReadFull(server, got); err != nil {
			t.Fatalf("ended while bytes moved: %v", err)
		}
	}
	got := wait(t, result)
	if took := time.Since(begun); got.Err != relay.ErrIdle || took < 2*idle || took > 20*idle {
		t.Errorf("got %+v after %v", got, took)
	}
}

// TestIdleWhileBlocked: a peer that stops reading is idle too.
func TestIdleWhileBlocked(t *testing.T) {
	client, _, _, result := spliced(t, relay.Options{Idle: 300 * time.Millisecond})
	_, _ = client.Write(make([]byte, 64<<20)) // until the session is ended
	if got := wait(t, result); got.Err != relay.ErrIdle {
		t.Errorf("got %+v", got)
	}
}

func TestAbort(t *testing.T) {
	client, server, session, result := spliced(t, relay.Options{})
	cause := errors.New("cause")
	session.Abort(cause)
	session.Abort(errors.New("second"))
	if got := wait(t, result); got.Err != cause {
		t.Errorf("got %+v", got)
	}
	for _, c := range []*net.TCPConn{client, server} {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("got %v, want a reset", err)
		}
	}
}

func TestAbortBeforeRun(t *testing.T) {
	_, a := pair(t)
	_, b := pair(t)
	session := relay.New(relay.Plain(a), relay.Plain(b), relay.Options{})
	early := errors.New("early")
	session.Abort(early)
	result := make(chan relay.Result, 1)
	session.Start(nil, func(r relay.Result) { result <- r })
	if got := wait(t, result); got.Err != early {
		t.Errorf("got %+v", got)
	}
}

// TestResetWhileWriting: an app resets while data for it is stuck on the way. The kernel tells that once, to whoever
// writes; who reads must not take it for an orderly end, or a torn upload would look complete.
func TestResetWhileWriting(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("what the socket's state tells is known on Linux alone")
	}
	for range 100 {
		client, server, _, result := spliced(t, relay.Options{})
		_ = client.SetReadBuffer(4096)
		_ = server.SetWriteDeadline(time.Now().Add(15 * time.Millisecond))
		if _, err := server.Write(make([]byte, 32<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the buffers do not fill: %v", err)
		}
		_ = client.SetLinger(0)
		_ = client.Close()
		if _, err := io.Copy(io.Discard, server); err == nil {
			t.Fatal("the reset arrived as an orderly end")
		}
		_ = server.Close()
		if r := wait(t, result); !isReset(r.Err) {
			t.Fatalf("ended as %v", r.Err)
		}
	}
}
