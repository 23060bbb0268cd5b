package sidecar

import (
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// clock is one that a test moves.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// aging is a mesh whose leaves can end: of both pods they are good for an hour, and the CA for a day.
type aging struct {
	*mesh
	clock  *clock
	client *pod // shadows those of mesh
	server *pod
}

// lives is a leaf that ends so long after the present of the clock.
func (c *clock) lives(d time.Duration) func(*x509.Certificate) {
	return func(l *x509.Certificate) { l.NotBefore, l.NotAfter = c.now().Add(-time.Hour), c.now().Add(d) }
}

func startAging(t *testing.T, changes ...func(*meshmap.Map)) *aging {
	t.Helper()
	c := new(clock)
	m := &mesh{ca: testca.New(t, proxytest.TrustDomain, func(ca *x509.Certificate) { ca.NotAfter = time.Now().Add(30 * 24 * time.Hour) }), app: startApp(t, echo)}
	changes = append([]func(*meshmap.Map){withServer("server")}, changes...)
	m.serverFiles, m.clientFiles = workload(t, m.ca, "server", changes...), workload(t, m.ca, "client", changes...)
	m.serverFiles.Leaf = m.ca.Issue(t, proxytest.ID("server"), c.lives(time.Hour))
	m.clientFiles.Leaf = m.ca.Issue(t, proxytest.ID("client"), c.lives(time.Hour))
	byClock := func(o *Options) { o.Now = c.now }
	m.server = startPod(t, serverIP, m.app, m.serverFiles.Sealed(t), byClock)
	m.client = startPod(t, clientIP, netip.MustParseAddrPort(clientIP+":1"), m.clientFiles.Sealed(t), byClock)
	m.client.dials(m.server.inboundAddr())
	return &aging{mesh: m, clock: c, client: m.client, server: m.server}
}

// renewLeaf gives a pod a leaf that is good for so long from now on.
func (a *aging) renewLeaf(t *testing.T, p *pod, w *proxytest.Workload, name string, life time.Duration) {
	t.Helper()
	w.Leaf = a.ca.Issue(t, proxytest.ID(name), a.clock.lives(life))
	p.publish(t, w.Sealed(t))
}

// sweep does what both proxies do again and again.
func (a *aging) sweep(t *testing.T) {
	t.Helper()
	for range 3 { // a pause after a renewal may be as long
		a.client.outbound.Renew(t.Context())
		a.clock.advance(time.Minute)
	}
	for _, p := range []*pod{a.client, a.server} {
		p.registry.Reconsider(p.identity.Current())
	}
}

// cut waits until a connection ends, which carried data before.
func cut(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection carries data")
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Error("the connection is not cut")
	}
}

func goesOn(t *testing.T, c io.ReadWriter) {
	t.Helper()
	if err := roundTrip(c, "still here"); err != nil {
		t.Errorf("the connection does not go on: %v", err)
	}
}

// until moves the clock to so long before the end of a leaf.
func (a *aging) until(end time.Time, d time.Duration) { a.clock.advance(end.Sub(a.clock.now()) - d) }

// bothRenewed lives through the end of the present leaves of both pods, which are renewed before it.
func (a *aging) bothRenewed(t *testing.T) {
	t.Helper()
	end := a.serverFiles.Leaf.Leaf.NotAfter
	a.until(end, 20*time.Minute)
	a.renewLeaf(t, a.client, &a.clientFiles, "client", 2*time.Hour)
	a.renewLeaf(t, a.server, &a.serverFiles, "server", 2*time.Hour)
	a.until(end, 5*time.Minute)
	a.sweep(t)
	a.until(end, -time.Minute)
	a.sweep(t)
}

// TestOutlivesItsLeaves: a connection goes on through three ends of both leaves, since both workloads were renewed.
func TestOutlivesItsLeaves(t *testing.T) {
	noLeaks(t)
	a := startAging(t)
	conn := a.client.open(t, "hello")
	quiet := a.client.open(t, "hello")
	for range 3 {
		a.bothRenewed(t)
		goesOn(t, conn)
	}
	goesOn(t, quiet)
	a.client.wantMetric(t, `meshless_renewals_total{direction="outbound",result="renewed"}`)
	a.server.wantMetric(t, `meshless_renewals_total{direction="inbound",result="renewed"}`)
	for _, line := range strings.Split(a.server.logs.String()+a.client.logs.String(), "\n") {
		if strings.Contains(line, "refused") {
			t.Errorf("a renewal is logged as refused: %s", line)
		}
	}
	conn.Close()
	quiet.Close()
}

// TestNotRenewed: a connection ends with the leaf of a workload that was not renewed, whoever else was.
func TestNotRenewed(t *testing.T) {
	for name, renew := range map[string]func(*aging, *testing.T){
		"neither":        func(*aging, *testing.T) {},
		"only the other": func(a *aging, t *testing.T) { a.renewLeaf(t, a.server, &a.serverFiles, "server", 2*time.Hour) },
		"only the client": func(a *aging, t *testing.T) {
			a.renewLeaf(t, a.client, &a.clientFiles, "client", 2*time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			a := startAging(t)
			end := a.clientFiles.Leaf.Leaf.NotAfter
			conn := a.client.open(t, "hello")
			a.until(end, 20*time.Minute)
			renew(a, t)
			a.until(end, 4*time.Minute)
			a.sweep(t)
			goesOn(t, conn)
			a.until(end, -time.Minute)
			a.sweep(t)
			cut(t, conn)
			eventually(t, "a line says that a leaf has expired", func() bool {
				logs := a.client.logs.String() + a.server.logs.String()
				return strings.Contains(logs, "no_longer_accepted") && strings.Contains(logs, "expired at")
			})
		})
	}
}

// TestRevokedAfterRenewal: a connection that was renewed ends when any of the keys is revoked by which it was accepted.
func TestRevokedAfterRenewal(t *testing.T) {
	for _, which := range []string{"old key of the client", "old key of the server", "new key of the client"} {
		t.Run(which, func(t *testing.T) {
			noLeaks(t)
			a := startAging(t)
			revoked, by, files := a.clientFiles.Leaf.Leaf, a.server, &a.serverFiles
			if strings.HasSuffix(which, "server") {
				revoked, by, files = a.serverFiles.Leaf.Leaf, a.client, &a.clientFiles
			}
			conn := a.client.open(t, "hello")
			a.bothRenewed(t)
			goesOn(t, conn)
			if strings.HasPrefix(which, "new") {
				revoked = a.clientFiles.Leaf.Leaf
			}
			files.Mesh.RevokedKeys = []string{svid.KeyDigest(revoked)}
			by.publish(t, files.Sealed(t))
			cut(t, conn)
		})
	}
}

// TestRenewalReachesNoApp: a renewal dials no app, on a Permissive port neither.
func TestRenewalReachesNoApp(t *testing.T) {
	noLeaks(t)
	a := startAging(t, func(m *meshmap.Map) { m.Inbound.Mode = meshmap.Permissive })
	conn := a.client.open(t, "hello")
	dialed := a.server.inbound.Active()
	a.bothRenewed(t)
	goesOn(t, conn)
	if n := a.server.inbound.Active(); n != dialed {
		t.Errorf("%d connections after the renewal, %d before", n, dialed)
	}
	if metrics := a.server.scrape(t); !strings.Contains(metrics, `meshless_connections_opened_total{direction="inbound",security="mutual_tls"} 1`+"\n") ||
		strings.Contains(metrics, `meshless_connections_opened_total{direction="inbound",security="tls_passthrough"} 1`) ||
		strings.Contains(metrics, `meshless_connections_opened_total{direction="inbound",security="plaintext"} 1`) {
		t.Errorf("the renewal was passed on:\n%s", metrics)
	}
	a.server.wantMetric(t, `meshless_renewals_total{direction="inbound",result="renewed"} 1`)
}

// TestClockJumps: a clock that goes an hour forward or back and returns cuts nothing that is good by it, leaves nothing
// that is not good, and new connections work at once.
func TestClockJumps(t *testing.T) {
	noLeaks(t)
	a := startAging(t)
	young := func() {
		a.renewLeaf(t, a.client, &a.clientFiles, "client", 8*time.Hour)
		a.renewLeaf(t, a.server, &a.serverFiles, "server", 8*time.Hour)
	}
	backdated := func(l *x509.Certificate) {
		l.NotBefore, l.NotAfter = a.clock.now().Add(-10*time.Minute), a.clock.now().Add(8*time.Hour)
	}
	young()
	conn := a.client.open(t, "hello")
	for _, jump := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
		a.clock.advance(jump)
		a.sweep(t)
		goesOn(t, conn)
	}

	// leaves that are younger than the jump: new handshakes are refused until the clock is back, what is open stays
	a.serverFiles.Leaf = a.ca.Issue(t, proxytest.ID("server"), backdated)
	a.server.publish(t, a.serverFiles.Sealed(t))
	fresh := a.client.open(t, "hello")
	a.clock.advance(-time.Hour)
	a.sweep(t)
	goesOn(t, conn)
	goesOn(t, fresh)
	if err := exchange(a.client.outboundAddr(), "hello"); err == nil {
		t.Error("a leaf that is not valid yet is accepted in a new handshake")
	}
	a.clientFiles.Leaf = a.ca.Issue(t, proxytest.ID("client"), func(l *x509.Certificate) {
		l.NotBefore, l.NotAfter = a.clock.now().Add(50*time.Minute), a.clock.now().Add(8*time.Hour)
	})
	before := a.client.generation()
	a.clientFiles.Sealed(t).Publish(t, a.client.dir)
	a.client.wantMetric(t, "meshless_reload_failing 1")
	if a.client.generation() != before {
		t.Error("a generation that is not valid yet is in use")
	}
	a.clock.advance(time.Hour)
	eventually(t, "the generation is taken once the clock is back", func() bool { return a.client.generation() > before })
	a.client.mustExchange(t, "hello")
	goesOn(t, conn)

	// beyond the end of all leaves, and back
	a.clock.advance(9 * time.Hour)
	for _, p := range []*pod{a.client, a.server} {
		p.registry.Reconsider(p.identity.Current())
	}
	cut(t, conn)
	cut(t, fresh)
	if a.client.Ready() == nil || exchange(a.client.outboundAddr(), "hello") == nil {
		t.Error("works with expired leaves")
	}
	a.clock.advance(-9 * time.Hour)
	if err := a.client.Ready(); err != nil {
		t.Errorf("not ready although the clock is back: %v", err)
	}
	a.client.mustExchange(t, "hello")
}

// TestOutlivesItsLeavesInFIPSMode: the records of a relayed connection are crypto/tls's there.
func TestOutlivesItsLeavesInFIPSMode(t *testing.T) {
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOutlivesItsLeaves$", "-test.v", "-test.timeout=120s")
	c.Env = append(os.Environ(), "GODEBUG=fips140=on")
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestOutlivesItsLeaves ") {
		t.Errorf("%v\n%s", err, out)
	}
}
