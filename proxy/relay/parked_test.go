//go:build linux

package relay_test

import (
	"io"
	"net"
	"testing"
	"time"

	"crypto/tls"
)

// cutWire holds back what is written from the byte at on, until the next write, and pauses there.
type cutWire struct {
	*net.TCPConn
	at int
}

func (c *cutWire) Write(p []byte) (int, error) {
	if at := c.at; at > 0 && len(p) > at {
		c.at = 0
		if n, err := c.TCPConn.Write(p[:at]); err != nil {
			return n, err
		}
		time.Sleep(50 * time.Millisecond) // the beginning is read, and kept aside
		n, err := c.TCPConn.Write(p[at:])
		return at + n, err
	}
	return c.TCPConn.Write(p)
}

// TestParkedRecord: nearly all of the longest record of crypto/tls, a pause, then the rest together with what follows:
// nothing is lost, and nothing panics.
func TestParkedRecord(t *testing.T) {
	for _, at := range []int{3, 5, 4096, 16385, 16395, 16400, 16405} {
		ts := newTunnels(t)
		wire, app, begin := hostileServe(t, ts)
		go begin()
		cut := &cutWire{TCPConn: wire}
		config := ts.client.Clone()
		config.DynamicRecordSizingDisabled = true
		c := tls.Client(joined{cut, new([]byte)}, config)
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
		cut.at = at
		const n = 60_000
		_ = app.SetReadDeadline(time.Now().Add(5 * time.Second))
		go func() {
			_, _ = c.Write(make([]byte, n))
			_ = c.CloseWrite()
		}()
		if got, err := io.ReadAll(app); err != nil || len(got) != n {
			t.Errorf("cut at %d: %d of %d bytes, %v", at, len(got), n, err)
		}
		_ = wire.Close()
	}
}

// joined collects the records of one Write of crypto/tls, so that they leave in one segment as far as the kernel lets
// them.
type joined struct {
	*cutWire
	held *[]byte
}

func (j joined) Write(p []byte) (int, error) {
	if len(p) > 16_000 && j.at > 0 || len(*j.held) > 0 && len(*j.held) < 40_000 && len(p) > 1000 {
		*j.held = append(*j.held, p...)
		if len(*j.held) < 40_000 {
			return len(p), nil
		}
		p2 := *j.held
		*j.held = nil
		_, err := j.cutWire.Write(p2)
		return len(p), err
	}
	return j.cutWire.Write(p)
}
