package sidecar

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/connection"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// tlsExchange is one round trip with the server's Strict port as an attacker would try it. A TLS 1.3 client learns only
// by reading whether the server accepted its certificate.
func (m *mesh) tlsExchange(t *testing.T, c *tls.Config) error {
	t.Helper()
	raw := dial(t, m.server.inboundAddr().String())
	conn := tls.Client(raw, c)
	defer conn.Close()
	return roundTrip(conn, "attack")
}

func TestAttacksOnStrict(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	id := proxytest.ID("client")
	good := m.ca.Issue(t, id)
	if err := m.tlsExchange(t, m.tlsClient(good)); err != nil {
		t.Fatalf("a good client is refused: %v", err)
	}
	revoked := m.ca.Issue(t, id)
	m.serverFiles.Mesh.RevokedKeys = []string{svid.KeyDigest(revoked.Leaf)}
	m.server.publish(t, m.serverFiles.Sealed(t))
	issue := func(change func(*x509.Certificate)) tls.Certificate { return m.ca.Issue(t, id, change) }
	foreign, err := url.Parse("spiffe://other.example/ns/prod/deployment/client")
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		leaf   tls.Certificate
		reason svid.Reason
	}{
		"no certificate":     {tls.Certificate{}, svid.NoCertificate},
		"other CA":           {testca.New(t, proxytest.TrustDomain).Issue(t, id), svid.UnknownAuthority},
		"other trust domain": {issue(func(c *x509.Certificate) { c.URIs = []*url.URL{foreign} }), svid.WrongTrustDomain},
		"two URI names":      {issue(func(c *x509.Certificate) { c.URIs = append(c.URIs, foreign) }), svid.NotAnSVID},
		"no URI name":        {issue(func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"client"} }), svid.NotAnSVID},
		"CA as leaf": {issue(func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		}), svid.NotAnSVID},
		"expired":       {issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), svid.Expired},
		"not yet valid": {issue(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), svid.NotYetValid},
		"server only":   {issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), svid.WrongUsage},
		"revoked":       {revoked, svid.Revoked},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			config := m.tlsClient(c.leaf)
			config.Certificates = nil
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.leaf, nil }
			if err := m.tlsExchange(t, config); err == nil {
				t.Error("the round trip succeeded")
			}
			m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound",reason="`+string(c.reason)+`"}`)
		})
	}
	t.Run("TLS 1.2", func(t *testing.T) {
		config := m.tlsClient(good)
		config.MaxVersion = tls.VersionTLS12
		if err := m.tlsExchange(t, config); err == nil {
			t.Error("the round trip succeeded")
		}
	})
	t.Run("plaintext", func(t *testing.T) {
		c := dial(t, m.server.inboundAddr().String())
		_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
		if got, _ := io.ReadAll(c); strings.Contains(string(got), "GET") {
			t.Errorf("got %q", got)
		}
	})
}

// TestOrdinaryTLSClient: what curl and openssl offer decides about the protocol, never about authentication.
func TestOrdinaryTLSClient(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	for _, protocols := range [][]string{nil, {"h2", "http/1.1"}} {
		config := m.tlsClient(m.ca.Issue(t, proxytest.ID("curl")))
		config.NextProtos = protocols
		if err := m.tlsExchange(t, config); err != nil {
			t.Errorf("with ALPN %v: %v", protocols, err)
		}
		config.Certificates = nil
		if err := m.tlsExchange(t, config); err == nil {
			t.Errorf("with ALPN %v and without a certificate: accepted", protocols)
		}
	}
}

func TestNoResumption(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	for _, protocols := range [][]string{nil, {api.ALPN}} {
		config := m.tlsClient(m.ca.Issue(t, proxytest.ID("client")))
		config.NextProtos, config.ClientSessionCache, config.ServerName = protocols, tls.NewLRUClientSessionCache(8), "server"
		for range 3 {
			conn := tls.Client(dial(t, m.server.inboundAddr().String()), config)
			if err := roundTrip(conn, "hello"); err != nil {
				t.Fatal(err)
			}
			if conn.ConnectionState().DidResume {
				t.Error("a session was resumed")
			}
			if got := conn.ConnectionState().CurveID; got != tls.X25519MLKEM768 {
				t.Errorf("key exchange is %v, want X25519MLKEM768", got)
			}
			conn.Close()
		}
	}
}

// TestTruncation: whoever can end the TCP stream must not be able to make the app believe that the message was
// complete.
func TestTruncation(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	raw := dial(t, m.server.inboundAddr().String())
	conn := tls.Client(raw, m.tlsClient(m.ca.Issue(t, proxytest.ID("client"))))
	if err := roundTrip(conn, "half a mess"); err != nil {
		t.Fatal(err)
	}
	_ = raw.CloseWrite() // without close_notify
	m.server.wantMetric(t, `meshless_connections_closed_total{direction="inbound",reason="truncated",security="mutual_tls"} 1`)
}

func TestSlowHandshake(t *testing.T) {
	slow(t)
	noLeaks(t)
	m := startMesh(t, echo)
	begun := time.Now()
	c := dial(t, m.server.inboundAddr().String())
	_, _ = c.Write([]byte{0x16, 0x03, 0x01, 0x02, 0x00}) // the promise of a hello
	if _, err := io.ReadAll(c); time.Since(begun) > 2*connection.HandshakeTimeout {
		t.Errorf("silent client was kept for %v (%v)", time.Since(begun), err)
	}
	m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound",reason="timeout"} 1`)
}

func TestInboundDestinations(t *testing.T) {
	noLeaks(t)
	ca := testca.New(t, proxytest.TrustDomain)
	for dst, reason := range map[string]string{
		"127.0.0.1:8080":  "foreign_address",
		appIP + ":15021":  "reserved_port",
		"224.0.0.1:80":    "original_destination",
		"0.0.0.0:8080":    "original_destination",
		serverIP + ":150": "foreign_address",
	} {
		p := startPod(t, serverIP, netip.MustParseAddrPort(dst), workload(t, ca, "server").Sealed(t))
		if err := exchange(p.inboundAddr().String(), "hello"); err == nil {
			t.Errorf("%s was accepted", dst)
		}
		p.wantMetric(t, `meshless_connections_refused_total{direction="inbound",reason="`+reason+`"} 1`)
	}
}

func TestNoFilesNoTraffic(t *testing.T) {
	noLeaks(t)
	p := startPod(t, serverIP, netip.MustParseAddrPort(appIP+":80"), nil)
	time.Sleep(50 * time.Millisecond)
	if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("ready without files: %v", err)
	}
	c := dial(t, p.inboundAddr().String()) // waits in the kernel's queue
	ca := testca.New(t, proxytest.TrustDomain)
	workload(t, ca, "server").Sealed(t).Publish(t, p.dir)
	eventually(t, "the proxy is ready", func() bool { return p.Ready() == nil })
	conn := tls.Client(c, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{ca.Issue(t, proxytest.ID("client"))}})
	if err := conn.Handshake(); err != nil {
		t.Errorf("the connection that waited: %v", err)
	}
}

// TestBadGenerations: each keeps the last good one in force.
func TestBadGenerations(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	good := m.serverFiles.Sealed(t)
	other := m.serverFiles
	other.Leaf = m.ca.Issue(t, proxytest.ID("client"))
	otherKey := m.serverFiles
	otherKey.Leaf.PrivateKey = other.Leaf.PrivateKey
	for name, files := range map[string]proxytest.Files{
		"torn: new bundle, old leaf": good.With(api.BundleFile, testca.New(t, proxytest.TrustDomain).PEM()),
		"another key":                otherKey.Sealed(t),
		"another workload's Secret":  other.Sealed(t),
		"no key":                     good.With(api.SealedKeyFile, nil),
		"another identity":           good.With(api.IdentityFile, m.clientFiles.Sealed(t)[api.IdentityFile]),
		"half a leaf":                good.With(api.LeafFile, good[api.LeafFile][:100]),
		"unknown field in mesh.yaml": good.With(api.MeshFile, append([]byte("surprise: 1\n"), good[api.MeshFile]...)),
	} {
		before := m.server.generation()
		failures := strings.Count(m.server.logs.String(), "generation refused")
		files.Publish(t, m.server.dir)
		eventually(t, name, func() bool { return strings.Count(m.server.logs.String(), "generation refused") > failures })
		if m.server.generation() != before {
			t.Errorf("%s: is in use", name)
		}
		if err := exchange(m.client.outboundAddr(), "hello"); err != nil {
			t.Errorf("%s: the last good generation does not serve: %v", name, err)
		}
		if m.server.Ready() != nil {
			t.Errorf("%s: not ready, though the last generation is good", name)
		}
	}
	for _, secret := range []string{"AGE-SECRET-KEY", "PRIVATE KEY"} {
		if strings.Contains(strings.ReplaceAll(m.server.logs.String(), "AGE-SECRET-KEY-...", ""), secret) {
			t.Errorf("the log holds %s", secret)
		}
	}
	m.server.wantMetric(t, "meshless_reload_failures_total 7")
	m.server.publish(t, good)
}
