//go:build linux

package relay_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/proxy/relay"
)

func hostileSession(t testing.TB, ts *tunnels) (c *tls.Conn, wire, app *net.TCPConn, ends chan relay.Result) {
	t.Helper()
	wire, b := pair(t)
	a, app := pair(t)
	var started sync.WaitGroup
	started.Go(func() { _, ends = ts.accept(t, b, a) })
	c = tls.Client(wire, ts.client)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	started.Wait()
	return c, wire, app, ends
}

// TestPeerGoneAfterItsEnd: a client says close_notify, and then it is gone (a reset here; keepalive's ETIMEDOUT looks
// the same). The kernel tells the loop, EPOLLERR and EPOLLHUP, and nobody looks: the session holds its places and the
// app's connection for the idle timeout.
func TestPeerGoneAfterItsEnd(t *testing.T) {
	ts := newTunnels(t)
	c, wire, app, ends := hostileSession(t, ts)
	_ = c.CloseWrite()
	_ = app.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := io.ReadAll(app); err != nil {
		t.Fatal(err)
	}
	_ = wire.SetLinger(0)
	_ = wire.Close()
	select {
	case r := <-ends:
		t.Logf("%+v", r)
	case <-time.After(2 * time.Second):
		t.Error("the client is gone, and the session is there")
	}
}

// TestNoDescriptors: none is left for detach. Both ends see an error, and nothing leaks.
func TestNoDescriptors(t *testing.T) {
	ts := newTunnels(t)
	near, a := pair(t)
	client, _ := ts.handshake(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	before := hostileDescriptors(t)
	low := limit
	low.Cur = uint64(before + 40)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var fill []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		fill = append(fill, fd)
	}
	ends := make(chan relay.Result, 1)
	relay.New(relay.Plain(a), client, relay.Options{}).Start(ts.engine, func(r relay.Result) { ends <- r })
	r := wait(t, ends)
	for _, fd := range fill {
		_ = unix.Close(fd)
	}
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	t.Logf("%+v", r)
	if !errors.Is(r.Err, unix.EMFILE) {
		t.Errorf("got %+v", r)
	}
	_ = near.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := near.Read(make([]byte, 1)); err == nil || err == io.EOF || os.IsTimeout(err) {
		t.Errorf("the app got %v, want a reset", err)
	}
	if after := hostileDescriptors(t); after > before-2 {
		t.Errorf("%d descriptors, then %d; the session had two", before, after)
	}
}
