//go:build linux

package connection

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// silentDNS is a DNS server that takes questions and never answers.
func silentDNS(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// silentServer is an address that drops what is sent to it: the queue of its listener is full.
func silentServer(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port))
	for {
		c, err := net.DialTimeout("tcp", address.String(), 200*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { c.Close() })
	}
}

func newSnapshot(t *testing.T) *identity.Snapshot {
	t.Helper()
	ca, directory := testca.New(t, proxytest.TrustDomain), t.TempDir()
	proxytest.Workload{CA: ca, Leaf: ca.Issue(t, proxytest.ID("web")), Mesh: proxytest.Mesh(), Workload: podplan.Workload{SPIFFEID: proxytest.ID("web")}}.
		Sealed(t).Publish(t, directory)
	generation, err := files.Read(directory)
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := identity.New(generation, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

// TestEndCancels: a connection that waits for DNS, or for the server to answer a dial, goes on while the listener
// stops, and ends at once when the process does.
func TestEndCancels(t *testing.T) {
	snapshot := newSnapshot(t)
	for name, dst := range map[string]netip.AddrPort{"lookup": netip.MustParseAddrPort("10.1.2.3:80"), "dial": silentServer(t)} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			engine, err := relay.NewEngine(1, relay.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			defer engine.Close()
			s, err := NewOutbound(Config{Listeners: []net.Listener{l}, OriginalDst: func(*net.TCPConn) (netip.AddrPort, error) { return dst, nil },
				Current: func() *identity.Snapshot { return snapshot }, Registry: registry.New(), Engine: engine, Telemetry: telemetry.New(slog.New(slog.DiscardHandler))},
				destination.New(destination.Options{Servers: []netip.AddrPort{silentDNS(t)}, Timeout: time.Minute}))
			if err != nil {
				t.Fatal(err)
			}
			ctx, end := context.WithCancel(t.Context())
			defer end()
			stop, done := make(chan struct{}), make(chan struct{})
			go func() { defer close(done); s.Serve(ctx, stop) }()
			app, err := listen.DialTCP(t.Context(), new(net.Dialer), listen.AddrPort(l.Addr()))
			if err != nil {
				t.Fatal(err)
			}
			defer app.Close()
			for s.Active() == 0 {
				time.Sleep(time.Millisecond)
			}
			close(stop)
			time.Sleep(200 * time.Millisecond)
			if s.Active() != 1 {
				t.Error("the connection ends before the drain does")
			}
			end()
			select {
			case <-done:
			case <-time.After(time.Second):
				t.Error("the connection outlives the process's end")
			}
		})
	}
}
