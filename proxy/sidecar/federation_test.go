package sidecar

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

const otherDomain = "other.example"

// member is a pod of one of two meshes, each with a trust domain and an authority of its own.
type member struct {
	*pod
	files proxytest.Workload
}

func idIn(td, name string) string { return "spiffe://" + td + "/ns/prod/deployment/" + name }

// in makes the files of a workload of any trust domain.
func in(t testing.TB, td string, ca *testca.CA, name string, changes ...func(*meshmap.Map)) proxytest.Workload {
	t.Helper()
	changes = append([]func(*meshmap.Map){func(m *meshmap.Map) { m.TrustDomain = td }}, changes...)
	return proxytest.Workload{CA: ca, Leaf: ca.Issue(t, idIn(td, name)), Mesh: proxytest.Mesh(changes...), Workload: podplan.Workload{SPIFFEID: idIn(td, name)}}
}

func with(td string, ca *testca.CA, cidrs ...string) func(*meshmap.Map) {
	return func(m *meshmap.Map) {
		f := meshmap.Federation{TrustDomain: td, Bundle: string(ca.PEM())}
		for _, c := range cidrs {
			f.CIDRs = append(f.CIDRs, netip.MustParsePrefix(c))
		}
		m.Federation = append(m.Federation, f)
	}
}

func letIn(td, to string, from ...string) func(*meshmap.Map) {
	return func(m *meshmap.Map) {
		m.Inbound.Policy = append(m.Inbound.Policy, meshmap.Policy{Workload: idIn(td, to), Rules: []meshmap.Rule{{From: from}}})
	}
}

// change publishes other files of the same workload.
func (m *member) change(t testing.TB, td string, name string, changes ...func(*meshmap.Map)) {
	t.Helper()
	changes = append([]func(*meshmap.Map){func(mesh *meshmap.Map) { mesh.TrustDomain = td }}, changes...)
	m.files.Mesh = proxytest.Mesh(changes...)
	m.publish(t, m.files.Sealed(t))
}

// meshes are a client of cluster.local and a server of other.example.
type meshes struct {
	ours, theirs   *testca.CA
	client, server *member
	// for the client's map, and for the server's
	toServer, named func(*meshmap.Map)
}

func startAuthorities(t testing.TB) *meshes {
	t.Helper()
	theirs := testca.New(t, otherDomain)
	return &meshes{ours: testca.New(t, proxytest.TrustDomain), theirs: theirs, toServer: with(otherDomain, theirs, serverIP+"/32"),
		named: letIn(otherDomain, "server", idIn(proxytest.TrustDomain, "client"))}
}

func (m *meshes) start(t testing.TB, client, server []func(*meshmap.Map)) {
	t.Helper()
	files := in(t, otherDomain, m.theirs, "server", server...)
	m.server = &member{startPod(t, serverIP, startApp(t, echo), files.Sealed(t)), files}
	files = in(t, proxytest.TrustDomain, m.ours, "client", client...)
	m.client = &member{startPod(t, clientIP, netip.MustParseAddrPort(clientIP+":1"), files.Sealed(t)), files}
	m.client.dials(m.server.inboundAddr())
}

func (m *meshes) try() error { return exchange(m.client.outboundAddr(), "hello") }

// wantRefused wants an exchange to fail, and a proxy to count it; what says what it would mean if it did not fail.
func (m *meshes) wantRefused(t *testing.T, what string, by *pod, metric string) {
	t.Helper()
	if err := m.try(); err == nil {
		t.Error(what)
	}
	by.wantMetric(t, metric)
}

// TestFederation: two meshes that know each other's bundle, and a rule of the server that names the client.
func TestFederation(t *testing.T) {
	noLeaks(t)
	m := startAuthorities(t)
	m.start(t, []func(*meshmap.Map){m.toServer}, []func(*meshmap.Map){with(proxytest.TrustDomain, m.ours), m.named})
	if err := m.try(); err != nil {
		t.Fatalf("allowed by a rule: %v\n%s", err, m.server.logs)
	}
	eventually(t, "both logs name both identities", func() bool {
		return strings.Contains(m.server.logs.String(), `"src_identity":"`+idIn(proxytest.TrustDomain, "client")+`"`) &&
			strings.Contains(m.client.logs.String(), `"dst_identity":"`+idIn(otherDomain, "server")+`"`)
	})

	t.Run("without the rule", func(t *testing.T) {
		m.server.change(t, otherDomain, "server", with(proxytest.TrustDomain, m.ours))
		m.wantRefused(t, "let in by AllowMesh", m.server.pod, `meshless_denials_total{enforced="true",reason="foreign_trust_domain"}`)
	})
	t.Run("with a rule for every workload of the server's mesh", func(t *testing.T) {
		m.server.change(t, otherDomain, "server", with(proxytest.TrustDomain, m.ours), letIn(otherDomain, "server", "spiffe://other.example/ns/*/*/*"))
		if err := m.try(); err == nil {
			t.Error("let in as a workload of the other mesh")
		}
	})
	t.Run("in a dry run", func(t *testing.T) {
		m.server.change(t, otherDomain, "server", with(proxytest.TrustDomain, m.ours), func(m *meshmap.Map) { m.Inbound.DryRun = true })
		if err := m.try(); err == nil {
			t.Error("let in by the dry run without a rule")
		}
		closed := letIn(otherDomain, "server", idIn(proxytest.TrustDomain, "client"))
		m.server.change(t, otherDomain, "server", with(proxytest.TrustDomain, m.ours), closed, func(m *meshmap.Map) {
			m.Inbound.DryRun, m.Inbound.Policy[0].Rules[0].Ports = true, netset.PortsOf(1)
		})
		if err := m.try(); err == nil {
			t.Error("let in by the dry run on a port that its rule does not open")
		}
		for line := range strings.Lines(m.server.scrape(t)) {
			if strings.HasPrefix(line, `meshless_denials_total{enforced="false"`) && !strings.HasSuffix(line, " 0\n") {
				t.Errorf("the dry run counted a foreign peer as let in: %s", line)
			}
		}
	})
	t.Run("with the rule again", func(t *testing.T) {
		m.server.change(t, otherDomain, "server", with(proxytest.TrustDomain, m.ours), m.named)
		if err := m.try(); err != nil {
			t.Error(err)
		}
	})
	t.Run("by other identities", func(t *testing.T) {
		m.client.change(t, proxytest.TrustDomain, "client", m.toServer, func(m *meshmap.Map) { m.Federation[0].Identities = []string{idIn(otherDomain, "server-*")} })
		m.wantRefused(t, "the server is none of those that may answer", m.client.pod, `meshless_handshake_failures_total{direction="outbound",reason="wrong_identity"}`)
		m.client.change(t, proxytest.TrustDomain, "client", m.toServer, func(m *meshmap.Map) { m.Federation[0].Identities = []string{"spiffe://other.example/ns/*/*/server"} })
		if err := m.try(); err != nil {
			t.Error(err)
		}
	})
}

// TestFederationOneWay: where only one side knows the other's bundle, nothing passes, in either direction, and never as
// plaintext.
func TestFederationOneWay(t *testing.T) {
	noLeaks(t)
	m := startAuthorities(t)
	m.start(t, []func(*meshmap.Map){m.toServer}, nil)
	m.wantRefused(t, "the server does not know our bundle", m.server.pod, `meshless_handshake_failures_total{direction="inbound",reason="wrong_trust_domain"}`)

	m.server.change(t, otherDomain, "server", with(proxytest.TrustDomain, m.ours), m.named)
	m.client.change(t, proxytest.TrustDomain, "client", func(m *meshmap.Map) { m.Outbound.MeshCIDRs = []netip.Prefix{netip.MustParsePrefix(serverIP + "/32")} })
	m.wantRefused(t, "we do not know the server's bundle", m.client.pod, `meshless_handshake_failures_total{direction="outbound",reason="wrong_trust_domain"}`)

	// It is known now, but the address is one of our own mesh: an identity of theirs must not answer there.
	m.client.change(t, proxytest.TrustDomain, "client", with(otherDomain, m.theirs), func(m *meshmap.Map) {
		m.Outbound.MeshCIDRs = []netip.Prefix{netip.MustParsePrefix(serverIP + "/32")}
	})
	m.wantRefused(t, "a federated server answers in meshCIDRs", m.client.pod, `meshless_handshake_failures_total{direction="outbound",reason="wrong_identity"}`)
	m.client.change(t, proxytest.TrustDomain, "client", with(otherDomain, m.theirs), withServer("server"))
	if err := m.try(); err == nil {
		t.Error("a federated server answers for a Service of our own")
	}
	m.client.change(t, proxytest.TrustDomain, "client", m.toServer, withServer("server"))
	m.wantRefused(t, "the address is of our Service and of their network", m.client.pod, `meshless_connections_refused_total{direction="outbound",reason="uncertain_destination"}`)
	m.client.change(t, proxytest.TrustDomain, "client", m.toServer)
	if err := m.try(); err != nil {
		t.Errorf("both ways: %v", err)
	}
}

// TestFederationIsNeverPlaintext: a server in a federated network that speaks no TLS gets nothing, whatever
// outbound.unknown says.
func TestFederationIsNeverPlaintext(t *testing.T) {
	noLeaks(t)
	m := startAuthorities(t)
	m.start(t, []func(*meshmap.Map){with(otherDomain, m.theirs, serverIP+"/32", appIP+"/32")}, nil)
	m.client.dials(startApp(t, echo))
	m.wantRefused(t, "a plain server in a federated network answered", m.client.pod, `meshless_handshake_failures_total{direction="outbound"`)
}

// TestFederationAttacks: what an authority of either trust domain can sign against a server that lets members of both
// in.
func TestFederationAttacks(t *testing.T) {
	noLeaks(t)
	m := startAuthorities(t)
	third := testca.New(t, "third.example")
	revoked := m.ours.Issue(t, idIn(proxytest.TrustDomain, "client"))
	m.start(t, nil, []func(*meshmap.Map){with(proxytest.TrustDomain, m.ours), func(m *meshmap.Map) { m.RevokedKeys = []string{svid.KeyDigest(revoked.Leaf)} },
		letIn(otherDomain, "server", "spiffe://cluster.local/ns/*/*/*", "spiffe://other.example/ns/*/*/*")})
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	ours, theirs := idIn(proxytest.TrustDomain, "client"), idIn(otherDomain, "client")
	for name, c := range map[string]struct {
		leaf   tls.Certificate
		reason svid.Reason // empty: let in
	}{
		"one of ours":                       {m.ours.Issue(t, ours), ""},
		"one of theirs":                     {m.theirs.Issue(t, theirs), ""},
		"our authority signs one of theirs": {m.ours.Issue(t, theirs), svid.UnknownAuthority},
		"their authority signs one of ours": {m.theirs.Issue(t, ours), svid.UnknownAuthority},
		"a third trust domain":              {third.Issue(t, idIn("third.example", "client")), svid.WrongTrustDomain},
		"a third one signed by ours":        {m.ours.Issue(t, idIn("third.example", "client")), svid.WrongTrustDomain},
		"both names":                        {m.ours.Issue(t, ours, func(c *x509.Certificate) { c.URIs = append(c.URIs, uri(theirs)) }), svid.NotAnSVID},
		"a revoked key of ours":             {revoked, svid.Revoked},
	} {
		t.Run(name, func(t *testing.T) {
			raw := dial(t, m.server.inboundAddr().String())
			conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{api.ALPN},
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.leaf, nil }})
			defer conn.Close()
			if err := roundTrip(conn, "attack"); (err == nil) != (c.reason == "") {
				t.Fatalf("the round trip: %v", err)
			}
			if c.reason != "" {
				m.server.wantMetric(t, fmt.Sprintf(`meshless_handshake_failures_total{direction="inbound",reason="%s"}`, c.reason))
			}
		})
	}
}

// TestFederationEnds: live connections end when the federation does, on the side that ends it.
func TestFederationEnds(t *testing.T) {
	noLeaks(t)
	m := startAuthorities(t)
	for name, end := range map[string]func(){
		"the server drops the bundle": func() { m.server.change(t, otherDomain, "server") },
		"the server drops the rule":   func() { m.server.change(t, otherDomain, "server", with(proxytest.TrustDomain, m.ours)) },
		"the client drops the bundle": func() { m.client.change(t, proxytest.TrustDomain, "client") },
	} {
		if m.server == nil {
			m.start(t, []func(*meshmap.Map){m.toServer}, []func(*meshmap.Map){with(proxytest.TrustDomain, m.ours), m.named})
		}
		t.Run(name, func(t *testing.T) {
			m.server.change(t, otherDomain, "server", with(proxytest.TrustDomain, m.ours), m.named)
			m.client.change(t, proxytest.TrustDomain, "client", m.toServer)
			c := m.client.open(t, "before")
			end()
			if n, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("the connection lives on: %d bytes", n)
			}
		})
	}
}

// TestRevocationsAreSticky: a key that was revoked once is refused until the proxy restarts, whatever a revert in Git
// says.
func TestRevocationsAreSticky(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	stolen := m.ca.Issue(t, proxytest.ID("client"))
	steal := func() error { return m.tlsExchange(t, m.tlsClient(stolen)) }
	if err := steal(); err != nil {
		t.Fatalf("before: %v", err)
	}
	publish := func(keys ...string) {
		m.serverFiles.Mesh.RevokedKeys = keys
		m.server.publish(t, m.serverFiles.Sealed(t))
	}
	const warning = "revoked keys are no longer listed"
	publish(svid.KeyDigest(stolen.Leaf), strings.Repeat("ab", 32))
	if err := steal(); err == nil {
		t.Fatal("a revoked key is let in")
	}
	if strings.Contains(m.server.logs.String(), warning) {
		t.Error("a warning, and nothing was reverted")
	}
	publish()
	if err := steal(); err == nil {
		t.Error("let in after a revert")
	}
	publish(strings.Repeat("cd", 32))
	if err := steal(); err == nil {
		t.Error("let in after another generation")
	}
	if err := exchange(m.client.outboundAddr(), "hello"); err != nil {
		t.Errorf("another key: %v", err)
	}
	if n := strings.Count(m.server.logs.String(), warning); n != 1 || !strings.Contains(m.server.logs.String(), `"keys":2`) {
		t.Errorf("%d warnings, want one that counts 2 keys:\n%s", n, m.server.logs)
	}

	restarted := startPod(t, otherIP, m.app, m.serverFiles.Sealed(t))
	m.server = restarted
	if err := steal(); err != nil {
		t.Errorf("after a restart, what the files say counts: %v", err)
	}
}
