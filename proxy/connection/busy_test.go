//go:build linux

package connection

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/registry"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// A proxy that has no files yet, or whose client holds its share of the places, answers by an alert: a close without an
// answer would be a sign of a server outside the mesh, to which clients fall back in plaintext.
func TestBusyProxyAnswers(t *testing.T) {
	snapshot := newSnapshot(t)
	for name, current := range map[string]func() *identity.Snapshot{
		"no files yet":  func() *identity.Snapshot { return nil },
		"share is used": func() *identity.Snapshot { return snapshot },
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			dst := netip.MustParseAddrPort("127.0.0.1:8080")
			s := NewInbound(InboundConfig{Config: Config{Listeners: []net.Listener{l}, OriginalDst: func(*net.TCPConn) (netip.AddrPort, error) { return dst, nil },
				Current: current, Registry: registry.New(), Telemetry: telemetry.New(slog.New(slog.DiscardHandler))},
				OwnAddress: func(netip.Addr) bool { return true }, MaxUnauthenticated: sourceParts})
			stop := make(chan struct{})
			go s.Serve(t.Context(), stop)
			defer close(stop)
			dial := func() *net.TCPConn {
				c, err := listen.DialTCP(t.Context(), new(net.Dialer), listen.AddrPort(l.Addr()))
				for tries := 0; errors.Is(err, syscall.ECONNRESET) && tries < 10; tries++ { // a client takes that for no connection
					c, err = listen.DialTCP(t.Context(), new(net.Dialer), listen.AddrPort(l.Addr()))
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			}
			if current() != nil { // one place for each source: this one has it
				dial()
				for s.Active() == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			c := dial()
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Second)) // less than a handshake may take
			got := make([]byte, len(internalError))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, internalError) {
				t.Errorf("read %x, %v; want the alert %x", got, err, internalError)
			}
		})
	}
}
