package connection

import (
	"bytes"
	"crypto/x509"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/files"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// FuzzReadNames: whatever a client sends, it names at most so many connections, and what is read is what was written.
func FuzzReadNames(f *testing.F) {
	f.Add([]byte{0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	f.Add([]byte{1, 0})
	f.Add([]byte{1, 1})
	f.Fuzz(func(t *testing.T, message []byte) {
		names, err := readNames(bytes.NewReader(message))
		if err != nil {
			return
		}
		if len(names) > maxBindings {
			t.Fatalf("%d names", len(names))
		}
		var again bytes.Buffer
		if err := writeNames(&again, names); err != nil || !bytes.HasPrefix(message, again.Bytes()) {
			t.Errorf("%x is written as %x, %v", message, again.Bytes(), err)
		}
	})
}

// snapshotAt is a good generation whose clock stands still.
func snapshotAt(t *testing.T, now time.Time) *identity.Snapshot {
	w := proxytest.Workload{CA: testca.New(t, proxytest.TrustDomain), Mesh: proxytest.Mesh(), Workload: podplan.Workload{SPIFFEID: proxytest.ID("client")}}
	w.Leaf = w.CA.Issue(t, proxytest.ID("client"))
	dir := t.TempDir()
	w.Plain(t).Publish(t, dir)
	g, err := files.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := identity.New(g, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWhenRenewalsAreDue: only near the end, again and again until it, with pauses, and not for what a renewal cannot
// mend.
func TestWhenRenewalsAreDue(t *testing.T) {
	start := time.Now()
	s := snapshotAt(t, start)
	lasts := func(d time.Duration) *x509.Certificate {
		return &x509.Certificate{NotBefore: start, NotAfter: start.Add(d)}
	}
	const day = 24 * time.Hour
	for _, c := range []struct {
		name              string
		server, own, ours time.Duration // lives of the server's leaf, of ours at the handshake, and of our present one
		first, last       time.Duration // bounds of the renewals
		least, most       int           // renewals
	}{
		{"the server's leaf ends", 30 * day, 60 * day, 60 * day, 27 * day, 30 * day, 40, 200},
		{"a short one", time.Hour, 60 * day, 60 * day, 54 * time.Minute, time.Hour, 4, 40},
		{"ours ends, and was renewed", 60 * day, 30 * day, 90 * day, 27 * day, 30 * day, 40, 200},
		{"ours ends, and was not renewed", 60 * day, 30 * day, 30 * day, 54 * day, 60 * day, 40, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			peer := s.Proof(spiffeid.RequireFromString(proxytest.ID("server")), []*x509.Certificate{lasts(c.server)}, x509.ExtKeyUsageServerAuth)
			conn := &renewable{m: meshDestination{addr: netip.MustParseAddrPort("10.1.1.1:80")}, peer: peer, ownFrom: start, ownUntil: start.Add(c.own)}
			r := newRenewer()
			r.servers[conn.server()] = &renewals{connections: map[*renewable]struct{}{conn: {}}, early: 0.25}
			var at []time.Duration
			for now := time.Duration(0); now < 61*day; now += renewalsInterval {
				if len(r.due(start.Add(now), lasts(c.ours))) > 0 {
					at = append(at, now)
				}
			}
			if len(at) < c.least || len(at) > c.most || at[0] < c.first || at[len(at)-1] >= c.last {
				t.Errorf("%d renewals, from %s to %s", len(at), at[0], at[len(at)-1])
			}
			if last := c.last - at[len(at)-1]; last > 2*time.Minute {
				t.Errorf("the last is %s before the end", last)
			}
		})
	}

	// a clock that was an hour ahead must not put the next one off
	peer := s.Proof(spiffeid.RequireFromString(proxytest.ID("server")), []*x509.Certificate{lasts(30 * day)}, x509.ExtKeyUsageServerAuth)
	conn := &renewable{m: meshDestination{addr: netip.MustParseAddrPort("10.1.1.1:80")}, peer: peer, ownFrom: start, ownUntil: start.Add(60 * day)}
	r := newRenewer()
	r.servers[conn.server()] = &renewals{connections: map[*renewable]struct{}{conn: {}}}
	now := start.Add(29 * day).Round(0)
	if len(r.due(now.Add(10*time.Hour), lasts(60*day))) == 0 || len(r.due(now, lasts(60*day))) == 0 {
		t.Error("after the clock went back nothing is due")
	}
}

// TestRenewalsTakeTurns: a server that announces an address for each of its connections, at all of which it may stall,
// keeps those of others waiting for few of its own.
func TestRenewalsTakeTurns(t *testing.T) {
	const many = 5000
	start := time.Now()
	s := snapshotAt(t, start)
	near := []*x509.Certificate{{NotBefore: start.Add(-time.Hour), NotAfter: start.Add(time.Minute)}}
	r := newRenewer()
	add := func(name string, port uint16) {
		at := netip.AddrPortFrom(netip.MustParseAddr("10.1.1.1"), port)
		c := &renewable{at: at, peer: s.Proof(spiffeid.RequireFromString(proxytest.ID(name)), near, x509.ExtKeyUsageServerAuth), ownFrom: start, ownUntil: start.Add(time.Hour)}
		r.servers[c.server()] = &renewals{connections: map[*renewable]struct{}{c: {}}}
	}
	for port := range uint16(many) {
		add("hostile", port+1)
	}
	add("honest", 1)
	own := &x509.Certificate{NotBefore: start, NotAfter: start.Add(time.Hour)}
	all := r.due(start, own)
	if at := slices.IndexFunc(all, func(d due) bool { return d.id.String() == proxytest.ID("honest") }); at < 0 || at > 1 || len(all) > maxOfOne+1 {
		t.Errorf("place %d of %d", at, len(all))
	}
	seen := map[server]bool{}
	for len(all) > 0 { // in the end each has had its turn, though only once
		for _, d := range all {
			if seen[d.server] {
				t.Fatalf("%v is due twice", d.server)
			}
			seen[d.server] = true
		}
		all = r.due(start, own)
	}
	if len(seen) != many+1 {
		t.Errorf("%d of %d servers were due", len(seen), many+1)
	}
}
