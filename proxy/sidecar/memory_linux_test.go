package sidecar

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// TestDeniedClientLogsTheAlert: a client that is denied learns it behind its own handshake, while its app may be
// writing. What it logs is the alert, every time, and not the reset that may follow.
func TestDeniedClientLogsTheAlert(t *testing.T) {
	m := startMesh(t, echo, func(m *meshmap.Map) {
		m.Inbound.Policy = []meshmap.Policy{{Workload: proxytest.ID("server"), Rules: []meshmap.Rule{{From: []string{proxytest.ID("other")}}}}}
	})
	const tries = 150
	for range tries {
		c, err := net.Dial("tcp", m.client.outboundAddr())
		if err != nil {
			continue // a refusal may be seen as early as this
		}
		for err == nil {
			_, err = c.Write([]byte("and on and on"))
		}
		c.Close()
	}
	m.client.wantMetric(t, fmt.Sprintf(`meshless_connections_closed_total{direction="outbound",reason="alert",security="mutual_tls"} %d`, tries))
}

// TestRefusedClientReadsTheAlert: a client whose certificate is refused and that goes on writing reads why.
func TestRefusedClientReadsTheAlert(t *testing.T) {
	m := startMesh(t, echo)
	config := m.tlsClient(tls.Certificate{})
	config.Certificates = nil
	for range 30 {
		raw := dial(t, m.server.inboundAddr().String())
		conn := tls.Client(raw, config)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if _, err := raw.Write([]byte("whatever comes behind a handshake")); err != nil {
				t.Fatalf("a write before the alert is read: %v", err)
			}
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "remote error") {
			t.Fatalf("the client got %v, want an alert", err)
		}
		raw.Close()
	}
}

// TestKeepAliveOnEveryHop: the sockets from the app to the other app are asked for what the kernel was told.
func TestKeepAliveOnEveryHop(t *testing.T) {
	m := startMesh(t, echo)
	c := m.client.open(t, "hello")
	defer c.Close()
	outbound, inbound := netip.MustParseAddrPort(m.client.outboundAddr()), m.server.inboundAddr()
	hops := map[string]int{}
	for fd, ends := range sockets(t) {
		var hop string
		switch {
		case ends.local == outbound:
			hop = "app to proxy"
		case ends.remote == inbound:
			hop = "proxy to proxy"
		case ends.local == inbound:
			hop = "proxy from proxy"
		case ends.remote == m.app:
			hop = "proxy to app"
		default:
			continue
		}
		hops[hop]++
		on, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		idle, _ := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		interval, _ := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
		count, _ := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
		if seconds := idle + interval*count; on == 0 || seconds == 0 || seconds > 120 {
			t.Errorf("%s: keepalive is %d, and finds a dead peer after %d s + %d × %d s", hop, on, idle, count, interval)
		}
	}
	if len(hops) != 4 {
		t.Errorf("found only %v", hops)
	}
}

type addresses struct{ local, remote netip.AddrPort }

// sockets are the connected TCP sockets of this process.
func sockets(t *testing.T) map[int]addresses {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]addresses{}
	for _, entry := range entries {
		fd, _ := strconv.Atoi(entry.Name())
		local, localErr := unix.Getsockname(fd)
		remote, remoteErr := unix.Getpeername(fd)
		if localErr == nil && remoteErr == nil {
			found[fd] = addresses{addrPort(local), addrPort(remote)}
		}
	}
	return found
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return listen.AddrPort(&net.TCPAddr{IP: a.Addr[:], Port: a.Port})
	}
	return netip.AddrPort{}
}
