package sidecar

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// reportHeader answers with what the PROXY protocol header says, then with what comes after it.
func reportHeader(c *net.TCPConn) {
	in := bufio.NewReader(c)
	h, err := proxyproto.Read(in)
	if err != nil {
		fmt.Fprintln(c, "no header:", err)
		return
	}
	tlvs, err := h.TLVs()
	fmt.Fprintf(c, "v%d %s %s", h.Version, h.SourceAddr, h.DestinationAddr)
	for _, v := range tlvs {
		fmt.Fprintf(c, " %#x=%s", byte(v.Type), v.Value)
	}
	fmt.Fprintln(c, "", err)
	_, _ = io.Copy(c, in)
}

// announcing starts a server whose app reads PROXY protocol headers.
func announcing(t *testing.T, mode meshmap.Mode) *mesh {
	t.Helper()
	m := &mesh{ca: testca.New(t, proxytest.TrustDomain), app: startApp(t, reportHeader)}
	m.serverFiles = workload(t, m.ca, "server", func(mesh *meshmap.Map) { mesh.Inbound.Mode = mode })
	m.serverFiles.Workload.ProxyProtocolPorts = netset.PortsOf(m.app.Port())
	m.server = startPod(t, serverIP, m.app, m.serverFiles.Sealed(t))
	return m
}

// TestPeerIsAnnounced: the app learns who the peer is and where it comes from, and no peer can tell it otherwise.
func TestPeerIsAnnounced(t *testing.T) {
	noLeaks(t)
	m := announcing(t, meshmap.Permissive)
	forged := "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
	say := func(c net.Conn, halfClose func() error) []string {
		t.Helper()
		_, _ = io.WriteString(c, forged)
		_ = halfClose()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return strings.SplitN(string(got), "\n", 2)
	}
	raw := dial(t, m.server.inboundAddr().String())
	conn := tls.Client(raw, m.tlsClient(m.ca.Issue(t, proxytest.ID("client"))))
	want := fmt.Sprintf("v2 %s %s 0xe0=%s <nil>", raw.LocalAddr(), m.app, proxytest.ID("client"))
	if got := say(conn, conn.CloseWrite); got[0] != want || got[1] != forged {
		t.Errorf("the app was told %q, want %q", got, want)
	}
	plain := dial(t, m.server.inboundAddr().String())
	want = fmt.Sprintf("v2 %s %s <nil>", plain.LocalAddr(), m.app)
	if got := say(plain, plain.CloseWrite); got[0] != want || got[1] != forged {
		t.Errorf("of a plaintext peer the app was told %q, want %q: it proved no identity", got, want)
	}
}

// TestAnnouncedFirst: the header comes before the peer has said anything, since in some protocols it is the server that
// speaks first.
func TestAnnouncedFirst(t *testing.T) {
	noLeaks(t)
	m := announcing(t, meshmap.Strict)
	conn := tls.Client(dial(t, m.server.inboundAddr().String()), m.tlsClient(m.ca.Issue(t, proxytest.ID("client"))))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "v2 ") {
		t.Errorf("the app says %q, %v", line, err)
	}
}

func denyAll(m *meshmap.Map) { m.Inbound.Default = meshmap.DenyDefault }

func dryRun(m *meshmap.Map) { m.Inbound.DryRun = true }

// TestDryRun: what would be denied is counted and logged, and nothing else changes; identities are required all the
// same.
func TestDryRun(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo, denyAll, dryRun)
	c := dial(t, m.client.outboundAddr())
	if err := roundTrip(c, "hello"); err != nil {
		t.Errorf("denied by a dry run: %v", err)
	}
	m.server.wantMetric(t, `meshless_denials_total{enforced="false",reason="no_policy"} 1`)
	if !strings.Contains(m.server.logs.String(), "connection would be denied") {
		t.Error("the log does not say so")
	}
	config := m.tlsClient(testca.New(t, proxytest.TrustDomain).Issue(t, proxytest.ID("client")))
	if err := m.tlsExchange(t, config); err == nil {
		t.Error("a dry run lets a stranger in")
	}
	m.server.publish(t, m.serverFiles.Sealed(t)) // verified again, and not counted twice
	if err := roundTrip(c, "again"); err != nil {
		t.Errorf("cut by a dry run: %v", err)
	}
	m.server.wantMetric(t, `meshless_denials_total{enforced="false",reason="no_policy"} 1`)
	m.serverFiles.Mesh.Inbound.DryRun = false
	m.server.publish(t, m.serverFiles.Sealed(t))
	eventually(t, "the end of the dry run ends the connection", func() bool { return roundTrip(c, "still?") != nil })
	if err := exchange(m.client.outboundAddr(), "hello"); err == nil {
		t.Error("not denied after the dry run")
	}
}

// TestPassthroughIsTold: what leaves the mesh is counted by itself, apart from plaintext within.
func TestPassthroughIsTold(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	m.client.dials(startAppAt(t, otherIP, echo))
	m.client.mustExchange(t, "hello")
	m.client.wantMetric(t, `meshless_connections_closed_total{direction="outbound",reason="done",security="passthrough"} 1`)
}
