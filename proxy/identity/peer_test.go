package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/files"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// snapshotAt is a generation by a clock, with revoked keys.
func snapshotAt(t *testing.T, w proxytest.Workload, now *time.Time, revoked ...string) *identity.Snapshot {
	t.Helper()
	dir := t.TempDir()
	m := *w.Mesh
	m.RevokedKeys = revoked
	w.Mesh = &m
	w.Plain(t).Publish(t, dir)
	g, err := files.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := identity.New(g, func() time.Time { return *now })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func endsAt(end time.Time) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotAfter = end }
}

func TestPeer(t *testing.T) {
	w := good(t)
	now := time.Now()
	s := snapshotAt(t, w, &now)
	const usage = x509.ExtKeyUsageClientAuth
	id := proxytest.ID("client")
	old := w.CA.Issue(t, id, endsAt(now.Add(time.Hour)))
	peer := func() *identity.Peer {
		return s.Proof(spiffeid.RequireFromString(id), []*x509.Certificate{old.Leaf}, usage)
	}
	newer := w.CA.Issue(t, id, endsAt(now.Add(3*time.Hour)))

	for name, leaf := range map[string]tls.Certificate{
		"another identity": w.CA.Issue(t, proxytest.ID("mallory"), endsAt(now.Add(3*time.Hour))),
		"another CA":       testca.New(t, proxytest.TrustDomain).Issue(t, id, endsAt(now.Add(3*time.Hour))),
		"no newer leaf":    old,
		"an older leaf":    w.CA.Issue(t, id, endsAt(now.Add(time.Minute))),
		"expired":          w.CA.Issue(t, id, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }),
		"another usage": w.CA.Issue(t, id, endsAt(now.Add(3*time.Hour)), func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}),
	} {
		if peer().Renew(s, []*x509.Certificate{leaf.Leaf}) {
			t.Errorf("%s renews", name)
		}
	}
	if revoking := snapshotAt(t, w, &now, svid.KeyDigest(old.Leaf)); peer().Renew(revoking, []*x509.Certificate{newer.Leaf}) {
		t.Error("a connection with a revoked key is renewed")
	}

	p := peer()
	if !p.Renew(s, []*x509.Certificate{newer.Leaf}) {
		t.Fatal("a newer leaf does not renew")
	}
	now = now.Add(2 * time.Hour)
	if _, err := p.Verify(s); err != nil {
		t.Errorf("beyond the end of the first leaf: %v", err)
	}
	if _, err := peer().Verify(s); err == nil || err.(*svid.Error).Reason != svid.Expired {
		t.Errorf("another connection that was not renewed: %v", err)
	}
	if late := peer(); late.Renew(s, []*x509.Certificate{newer.Leaf}) {
		t.Error("a connection is renewed whose leaf has expired")
	}
	for name, key := range map[string]*x509.Certificate{"old": old.Leaf, "new": newer.Leaf} {
		if _, err := p.Verify(snapshotAt(t, w, &now, svid.KeyDigest(key))); err == nil || err.(*svid.Error).Reason != svid.Revoked {
			t.Errorf("%s key is revoked: %v", name, err)
		}
	}

	// a clock that goes back behind the beginning of the leaf
	young := w.CA.Issue(t, id, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-time.Minute), now.Add(8*time.Hour) })
	q := s.Proof(p.ID, []*x509.Certificate{young.Leaf}, usage)
	now = now.Add(-time.Hour)
	if _, err := q.Verify(s); err != nil {
		t.Errorf("the clock went back: %v", err)
	}
	if _, err := s.VerifyPeer([]*x509.Certificate{young.Leaf}, usage); err == nil {
		t.Error("a new handshake takes a leaf that is not valid yet")
	}
}

// TestManyRenewals: what a connection remembers of its leaves is bounded, and its first key is among it.
func TestManyRenewals(t *testing.T) {
	w := good(t)
	now := time.Now()
	s := snapshotAt(t, w, &now)
	id := proxytest.ID("client")
	first := w.CA.Issue(t, id, endsAt(now.Add(time.Minute)))
	p := s.Proof(spiffeid.RequireFromString(id), []*x509.Certificate{first.Leaf}, x509.ExtKeyUsageClientAuth)
	for i := range 200 {
		if !p.Renew(s, []*x509.Certificate{w.CA.Issue(t, id, endsAt(now.Add(time.Duration(i+2)*time.Minute))).Leaf}) {
			t.Fatalf("renewal %d", i)
		}
	}
	if n := p.EarlierKeys(); n > 64 {
		t.Errorf("%d keys are remembered", n)
	}
	if _, err := p.Verify(snapshotAt(t, w, &now, svid.KeyDigest(first.Leaf))); err == nil {
		t.Error("the first key is forgotten")
	}
}

func announced(protocol string, stamps ...string) tls.ConnectionState {
	state := tls.ConnectionState{NegotiatedProtocol: protocol}
	for _, s := range stamps {
		state.SignedCertificateTimestamps = append(state.SignedCertificateTimestamps, []byte(s))
	}
	return state
}

func TestAnnounced(t *testing.T) {
	for _, c := range []struct {
		state tls.ConnectionState
		at    string
		ok    bool
	}{
		{announced(api.ALPN, "meshless-renew/1 10.1.2.3:80"), "10.1.2.3:80", true},
		{announced(api.ALPN, "meshless-renew/1 [fd00::1]:80"), "[fd00::1]:80", true},
		{announced(api.ALPN, "meshless-renew/1 [::ffff:10.1.2.3]:80"), "10.1.2.3:80", true},
		{announced(api.ALPN, "meshless-renew/1 10.1.2.3:0"), "invalid AddrPort", true},
		{announced(api.ALPN, "meshless-renew/1 [fe80::1%eth0]:80"), "invalid AddrPort", true},
		{announced(api.ALPN, "meshless-renew/1 web:80"), "invalid AddrPort", true},
		{announced(api.ALPN, "meshless-renew/2 10.1.2.3:80"), "invalid AddrPort", false},
		{announced(api.ALPN, "meshless-renew/1 10.1.2.3:80", "another"), "invalid AddrPort", false},
		{announced(api.ALPN), "invalid AddrPort", false},
		{announced("", "meshless-renew/1 10.1.2.3:80"), "invalid AddrPort", false},
	} {
		if at, ok := identity.Announced(c.state); at.String() != c.at || ok != c.ok {
			t.Errorf("%q is %s, %t; want %s, %t", c.state.SignedCertificateTimestamps, at, ok, c.at, c.ok)
		}
	}
}

// FuzzAnnounced: what a server says about renewals is no address, or one that can be dialed as it is.
func FuzzAnnounced(f *testing.F) {
	f.Add("meshless-renew/1 10.1.2.3:80")
	f.Add("meshless-renew/1 [fd00::1%x]:80")
	f.Fuzz(func(t *testing.T, stamp string) {
		at, ok := identity.Announced(announced(api.ALPN, stamp))
		if ok != strings.HasPrefix(stamp, "meshless-renew/1 ") {
			t.Errorf("%q: ok is %t", stamp, ok)
		}
		if !at.IsValid() {
			return
		}
		if again, err := netip.ParseAddrPort(at.String()); err != nil || again != at || at.Port() == 0 || at.Addr().Zone() != "" || at.Addr().Is4In6() {
			t.Errorf("%q is %s", stamp, at)
		}
	})
}
