//go:build linux

package relay_test

import (
	"crypto/tls"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/relay"
)

// slowWire sends every write byte by byte.
type slowWire struct {
	*net.TCPConn
	slow bool
}

func (s *slowWire) Write(p []byte) (int, error) {
	if !s.slow {
		return s.TCPConn.Write(p)
	}
	for i := range p {
		if _, err := s.TCPConn.Write(p[i : i+1]); err != nil {
			return i, err
		}
		time.Sleep(20 * time.Microsecond)
	}
	return len(p), nil
}

// TestTrickle: the longest record, one byte at a time. What arrives must not be copied whole for every byte.
func TestTrickle(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	ts := newTunnels(t)
	wire, app, begin := hostileServe(t, ts)
	done := make(chan *relay.Session, 1)
	go func() { done <- begin() }()
	slow := &slowWire{TCPConn: wire}
	c := tls.Client(slow, ts.client)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	<-done
	slow.slow = true
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const n = 5000
	go func() { _, _ = c.Write(make([]byte, n)) }()
	_ = app.SetReadDeadline(time.Now().Add(20 * time.Second))
	got := 0
	for b := make([]byte, n); got < n; {
		k, err := app.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got += k
	}
	runtime.ReadMemStats(&after)
	allocated := after.TotalAlloc - before.TotalAlloc
	t.Logf("a record of %d bytes in single bytes made the proxy allocate %d KiB, %d times its size", n, allocated>>10, allocated/n)
	if allocated > 100*n {
		t.Error("every byte copies all that came before it into memory of its own")
	}
}
