package sidecar

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// TestClientsAreApart: the app sees each client at an address of its own, be it by mutual TLS or in plaintext, and the
// log and the admin port tell which.
func TestClientsAreApart(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, func(c *net.TCPConn) {
		fmt.Fprintln(c, listen.AddrPort(c.RemoteAddr()))
		_, _ = io.Copy(c, c)
	}, func(mesh *meshmap.Map) { mesh.Inbound.Mode = meshmap.Permissive })
	from := func(address string, mutual bool) (seen netip.AddrPort) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		c, err := d.Dial("tcp", m.server.inboundAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		if mutual {
			c = tls.Client(c, m.tlsClient(m.ca.Issue(t, proxytest.ID("client"))))
		}
		t.Cleanup(func() { c.Close() })
		_, _ = io.WriteString(c, "x\n")
		var text string
		if _, err := fmt.Fscanln(c, &text); err != nil {
			t.Fatal(err)
		}
		return netip.MustParseAddrPort(text)
	}
	first := from("127.0.1.7", true)
	for _, test := range []struct {
		address string
		mutual  bool
		want    string
	}{{"127.0.1.7", false, "127.6.1.7"}, {"127.0.2.7", true, "127.6.2.7"}, {"127.77.1.7", false, "127.6.1.8"}, {"127.0.0.1", true, "127.6.0.2"}} {
		if got := from(test.address, test.mutual); got.Addr().String() != test.want || first.Addr().String() != "127.6.1.7" {
			t.Errorf("the app sees %s at %s, want %s", test.address, got, test.want)
		}
	}
	status, text := m.server.get(t, http.MethodGet, "/clients")
	var seen []listen.Client
	if err := json.Unmarshal([]byte(text), &seen); err != nil || status != http.StatusOK || len(seen) != 4 {
		t.Fatalf("/clients is %d %s, %v", status, text, err)
	}
	if one := seen[1]; one.Client.String() != "127.0.1.7" || one.App != first.Addr() || one.Identity != proxytest.ID("client") || one.Connections != 2 {
		t.Errorf("/clients has %+v", one)
	}
	if _, dump := m.server.get(t, http.MethodGet, "/configz"); !strings.Contains(dump, `"clientCIDRs": "127.6.0.0/16"`) {
		t.Errorf("/configz has no client addresses: %s", dump)
	}
	m.server.stop()
	if line := `"src_app":"` + first.String() + `"`; !strings.Contains(m.server.logs.String(), line) {
		t.Errorf("the log lacks %s", line)
	}
}

// TestNoClientAddresses: a sidecar that finds none ends, since its connections to the app would come back to it.
func TestNoClientAddresses(t *testing.T) {
	o := testOptions(serverIP, t.TempDir(), netip.AddrPort{})
	o.Redirect = nil
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "meshless-init of the same release") {
		t.Errorf("got %v", err)
	}
}
