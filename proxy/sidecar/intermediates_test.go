package sidecar

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/files"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// asCA makes an intermediate of a certificate that is about to be signed: a CA without a SPIFFE ID, as corporate PKIs
// and the issuers of cert-manager have them.
func asCA(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject.CommonName, c.URIs, c.ExtKeyUsage = name, nil, nil
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	}
}

// corporateRoot is a root that allows intermediates.
func corporateRoot(t *testing.T) *testca.CA {
	t.Helper()
	return testca.New(t, proxytest.TrustDomain, func(c *x509.Certificate) { c.URIs, c.MaxPathLenZero = nil, false })
}

// chained is a leaf with the certificates between it and its root, nearest first.
func chained(leaf tls.Certificate, between ...tls.Certificate) tls.Certificate {
	leaf.Certificate = slices.Clone(leaf.Certificate)
	for _, c := range between {
		leaf.Certificate = append(leaf.Certificate, c.Leaf.Raw)
	}
	return leaf
}

// presenting are those of a workload whose leaf, chain and key come from elsewhere, and who trusts the roots.
func presenting(t *testing.T, w proxytest.Workload, c tls.Certificate, roots ...*testca.CA) proxytest.Files {
	t.Helper()
	w.Leaf = c
	var bundle []byte
	for _, root := range roots {
		bundle = append(bundle, root.PEM()...)
	}
	return w.Plain(t).With(api.LeafFile, svid.EncodeCertificates(parseChain(t, c)...)).With(api.BundleFile, bundle)
}

func parseChain(t *testing.T, c tls.Certificate) []*x509.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	for _, der := range c.Certificate {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, parsed)
	}
	return chain
}

// Pods with leaves below intermediates, plain keys and another root talk to pods of the rolling CA and to each other:
// both sides send their whole chain.
func TestChains(t *testing.T) {
	noLeaks(t)
	root, rolling := corporateRoot(t), testca.New(t, proxytest.TrustDomain)
	outer := root.Issue(t, "spiffe://x/y", asCA("outer"))
	inner := testca.Below(t, outer).Issue(t, "spiffe://x/y", asCA("inner"))
	issue := func(name string) tls.Certificate {
		return chained(testca.Below(t, inner).Issue(t, proxytest.ID(name)), inner, outer)
	}
	server, client := workload(t, rolling, "server", withServer("server")), workload(t, rolling, "client", withServer("server"))
	files := map[string][2]proxytest.Files{ // of client and server
		"both corporate":      {presenting(t, client, issue("client"), root), presenting(t, server, issue("server"), root)},
		"server corporate":    {presenting(t, client, client.Leaf, rolling, root), presenting(t, server, issue("server"), rolling, root)},
		"client corporate":    {presenting(t, client, issue("client"), rolling, root), presenting(t, server, server.Leaf, rolling, root)},
		"middle as an anchor": {presenting(t, client, issue("client"), testca.Below(t, outer)), presenting(t, server, issue("server"), testca.Below(t, outer))},
	}
	for name, pair := range files {
		t.Run(name, func(t *testing.T) {
			s := startPod(t, serverIP, startApp(t, echo), pair[1])
			c := startPod(t, clientIP, netip.MustParseAddrPort(clientIP+":1"), pair[0])
			c.dials(s.inboundAddr())
			if err := exchange(c.outboundAddr(), "through a chain"); err != nil {
				t.Error(err)
			}
		})
	}
}

// What stands between a leaf and its root is verified as strictly as both of them.
func TestAttacksWithChains(t *testing.T) {
	noLeaks(t)
	root, shallow := corporateRoot(t), testca.New(t, proxytest.TrustDomain)
	m := &mesh{ca: root}
	m.serverFiles = workload(t, root, "server")
	id := proxytest.ID("client")
	below := func(ca *testca.CA, changes ...func(*x509.Certificate)) tls.Certificate {
		middle := ca.Issue(t, "spiffe://x/y", append([]func(*x509.Certificate){asCA("middle")}, changes...)...)
		return chained(testca.Below(t, middle).Issue(t, id), middle)
	}
	revoked := root.Issue(t, "spiffe://x/y", asCA("revoked"))
	m.serverFiles.Mesh.RevokedKeys = []string{svid.KeyDigest(revoked.Leaf)}
	m.server = startPod(t, serverIP, startApp(t, echo), presenting(t, m.serverFiles, m.serverFiles.Leaf, root, shallow))
	if err := m.tlsExchange(t, m.tlsClient(below(root))); err != nil {
		t.Fatalf("a good client below an intermediate is refused: %v", err)
	}
	named := func(uri string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: uri}} }
	}
	workloadLeaf := root.Issue(t, proxytest.ID("mallory"))
	good := below(root)
	reversed := good
	reversed.Certificate = [][]byte{good.Certificate[1], good.Certificate[0]}
	for name, test := range map[string]struct {
		chain  tls.Certificate
		reason svid.Reason
	}{
		"a workload signs":              {chained(testca.Below(t, workloadLeaf).Issue(t, id), workloadLeaf), svid.UnknownAuthority},
		"not a CA":                      {below(root, func(c *x509.Certificate) { c.IsCA = false }), svid.UnknownAuthority},
		"may not sign":                  {below(root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), svid.UnknownAuthority},
		"below a path length of zero":   {below(shallow), svid.UnknownAuthority},
		"of another trust domain":       {below(root, named("other.example")), svid.UnknownAuthority},
		"constrained to another domain": {below(root, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"other.example"} }), svid.UnknownAuthority},
		"excluded from this domain":     {below(root, func(c *x509.Certificate) { c.ExcludedURIDomains = []string{proxytest.TrustDomain} }), svid.UnknownAuthority},
		"expired":                       {below(root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), svid.Expired},
		"for servers alone":             {below(root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), svid.WrongUsage},
		"revoked":                       {chained(testca.Below(t, revoked).Issue(t, id), revoked), svid.Revoked},
		"left out":                      {chained(testca.Below(t, root.Issue(t, "spiffe://x/y", asCA("gone"))).Issue(t, id)), svid.UnknownAuthority},
		"in front of the leaf":          {reversed, svid.NotAnSVID},
	} {
		t.Run(name, func(t *testing.T) {
			config := m.tlsClient(tls.Certificate{})
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &test.chain, nil }
			if err := m.tlsExchange(t, config); err == nil {
				t.Error("the round trip succeeded")
			}
			m.server.wantMetric(t, `meshless_handshake_failures_total{direction="inbound",reason="`+string(test.reason)+`"}`)
			var refused *svid.Error
			if _, err := m.server.identity.Current().VerifyPeer(parseChain(t, test.chain), x509.ExtKeyUsageClientAuth); !errors.As(err, &refused) || refused.Reason != test.reason {
				t.Errorf("got %v, want reason %s", err, test.reason)
			}
		})
	}
}

// A proxy that peers would refuse does not start: its own chain is verified as theirs.
func TestOwnChain(t *testing.T) {
	root := corporateRoot(t)
	middle := root.Issue(t, "spiffe://x/y", asCA("middle"))
	leaf := testca.Below(t, middle).Issue(t, proxytest.ID("server"))
	w := workload(t, root, "server")
	for name, test := range map[string]struct {
		chain tls.Certificate
		want  string
	}{
		"whole":                    {chained(leaf, middle), ""},
		"without its intermediate": {leaf, "signed by no authority of the bundle"},
		"another workload's":       {chained(testca.Below(t, middle).Issue(t, proxytest.ID("client")), middle), "is the Secret of another workload mounted?"},
	} {
		directory := t.TempDir()
		presenting(t, w, test.chain, root).Publish(t, directory)
		generation, err := files.Read(directory)
		if err != nil {
			t.Fatal(err)
		}
		_, err = identity.New(generation, time.Now)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}
