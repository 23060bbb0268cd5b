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

	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/registry"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// A proxy that has no files yet, or that can let nobody more wait, answers by an alert: a close without an
// answer would be a sign of a server outside the mesh, to which clients fall back in plaintext.
func TestBusyProxyAnswers(t *testing.T) {
	snapshot := newSnapshot(t)
	for name, current := range map[string]func() *identity.Snapshot{
		"no files yet": func() *identity.Snapshot { return nil },
		"park is full": func() *identity.Snapshot { return snapshot },
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			dst := netip.MustParseAddrPort("127.0.0.1:8080")
			limits := NewLimits(budget.Budget{Connections: 1, Park: 1, Handshakes: 1})
			s, err := NewInbound(InboundConfig{Config: Config{Listeners: []net.Listener{l}, OriginalDst: func(*net.TCPConn) (netip.AddrPort, error) { return dst, nil },
				Current: current, Registry: registry.New(), Telemetry: telemetry.New(slog.New(slog.DiscardHandler)), Limits: limits},
				OwnAddress: func(netip.Addr) bool { return true }})
			if err != nil {
				t.Fatal(err)
			}
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
			if current() != nil { // one has the only slot, the other the park
				for range 2 {
					_, _ = dial().Write([]byte{22, 3, 1})
				}
				for s.Active() < 2 {
					time.Sleep(time.Millisecond)
				}
			}
			c := dial()
			_, _ = c.Write([]byte{22, 3, 1})                       // what is silent has no turn
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Second)) // less than a handshake may take
			got := make([]byte, len(internalError))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, internalError) {
				t.Errorf("read %x, %v; want the alert %x", got, err, internalError)
			}
		})
	}
}
