package svid_test

import (
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

const id = "spiffe://cluster.local/ns/prod/deployment/web"

var td = spiffeid.RequireTrustDomainFromString("cluster.local")

func bundle(t testing.TB, revoked []string, cas ...*testca.CA) *svid.Bundle {
	t.Helper()
	var certificates []*x509.Certificate
	for _, ca := range cas {
		certificates = append(certificates, ca.Certificate)
	}
	b, err := svid.NewBundle(td, certificates, revoked)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Every attack on a certificate has its reason; only the good one passes.
func TestVerify(t *testing.T) {
	ca, foreign := testca.New(t, "cluster.local"), testca.New(t, "cluster.local")
	b := bundle(t, nil, ca)
	parse := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for name, test := range map[string]struct {
		id     string
		ca     *testca.CA
		change func(*x509.Certificate)
		want   svid.Reason

		clientsOnly bool // only VerifyLeaf refuses
	}{
		"good":               {id: id},
		"other CA":           {id: id, ca: foreign, want: svid.UnknownAuthority},
		"expired":            {id: id, change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, want: svid.Expired},
		"not yet valid":      {id: id, change: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, want: svid.NotYetValid},
		"other trust domain": {id: "spiffe://other/ns/prod/deployment/web", want: svid.WrongTrustDomain},
		"subdomain":          {id: "spiffe://x.cluster.local/ns/prod/deployment/web", want: svid.WrongTrustDomain},
		"no URI":             {id: id, change: func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"web"} }, want: svid.NotAnSVID},
		"two URIs": {id: id, change: func(c *x509.Certificate) {
			c.URIs = append(c.URIs, parse("spiffe://cluster.local/ns/prod/deployment/admin"))
		}, want: svid.NotAnSVID},
		"not SPIFFE":         {id: "https://cluster.local/ns/prod/deployment/web", want: svid.NotAnSVID},
		"no path":            {id: "spiffe://cluster.local", want: svid.NotAnSVID},
		"dots in the path":   {id: "spiffe://cluster.local/ns/../web", want: svid.NotAnSVID},
		"port":               {id: "spiffe://cluster.local:80/ns/web", want: svid.NotAnSVID},
		"CA as leaf":         {id: id, change: func(c *x509.Certificate) { c.IsCA = true }, want: svid.NotAnSVID},
		"may sign":           {id: id, change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, want: svid.NotAnSVID},
		"no key usage":       {id: id, change: func(c *x509.Certificate) { c.KeyUsage = 0 }, want: svid.WrongUsage},
		"no EKU at all":      {id: id, change: func(c *x509.Certificate) { c.ExtKeyUsage = nil }, want: svid.WrongUsage},
		"any EKU":            {id: id, change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, want: svid.WrongUsage},
		"no EKU for clients": {id: id, change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, clientsOnly: true},
		"no EKU for servers": {id: id, change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, want: svid.WrongUsage},
	} {
		t.Run(name, func(t *testing.T) {
			signer := test.ca
			if signer == nil {
				signer = ca
			}
			change := test.change
			if change == nil {
				change = func(*x509.Certificate) {}
			}
			leaf := signer.Issue(t, test.id, change).Leaf
			got, err := b.Verify([]*x509.Certificate{leaf}, x509.ExtKeyUsageServerAuth, time.Now())
			if both, bothErr := b.VerifyLeaf(leaf, time.Now()); (bothErr == nil) != (err == nil && !test.clientsOnly) || bothErr == nil && both != got {
				t.Errorf("VerifyLeaf says %s, %v; Verify %s, %v", both, bothErr, got, err)
			}
			var refused *svid.Error
			switch {
			case test.want == "" && (err != nil || got.String() != id):
				t.Errorf("a good certificate: %s, %v", got, err)
			case test.want != "" && (!errors.As(err, &refused) || refused.Reason != test.want || !got.IsZero()):
				t.Errorf("got %s and %v, want reason %s", got, err, test.want)
			}
		})
	}
}

func TestVerifyRefusesNothingAndSelfSigned(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	b := bundle(t, nil, ca)
	for name, chain := range map[string][]*x509.Certificate{"no certificate": nil, "the CA itself": {ca.Certificate}} {
		if got, err := b.Verify(chain, x509.ExtKeyUsageClientAuth, time.Now()); err == nil {
			t.Errorf("%s: accepted as %s", name, got)
		}
	}
}

// An intermediate below our CA must not sign: its path length is zero.
func TestVerifyRefusesIntermediates(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	middle := ca.Issue(t, "spiffe://cluster.local/middle", func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage = x509.KeyUsageCertSign; c.ExtKeyUsage = nil })
	leaf := testca.Below(t, middle).Issue(t, id)
	if got, err := bundle(t, nil, ca).Verify([]*x509.Certificate{leaf.Leaf, middle.Leaf}, x509.ExtKeyUsageServerAuth, time.Now()); err == nil {
		t.Errorf("accepted as %s", got)
	}
}

func TestRevoked(t *testing.T) {
	ca, other := testca.New(t, "cluster.local"), testca.New(t, "cluster.local")
	leaf, innocent := ca.Issue(t, id).Leaf, ca.Issue(t, id).Leaf
	refusedBy := func(b *svid.Bundle, c *x509.Certificate) bool {
		_, err := b.Verify([]*x509.Certificate{c}, x509.ExtKeyUsageServerAuth, time.Now())
		var refused *svid.Error
		return errors.As(err, &refused) && refused.Reason == svid.Revoked
	}
	byLeaf := bundle(t, []string{svid.KeyDigest(leaf)}, ca, other)
	if !refusedBy(byLeaf, leaf) || refusedBy(byLeaf, innocent) {
		t.Error("revoking a key must refuse its certificate and no other")
	}
	if byCA := bundle(t, []string{svid.KeyDigest(ca.Certificate)}, ca, other); !refusedBy(byCA, innocent) {
		t.Error("revoking an authority's key must refuse what it signed")
	}
}

func TestBundleRefuses(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	leaf := ca.Issue(t, id).Leaf
	for name, certificates := range map[string][]*x509.Certificate{"empty": nil, "a leaf": {leaf}, "twice": {ca.Certificate, ca.Certificate}} {
		if _, err := svid.NewBundle(td, certificates, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseCertificates(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	good := string(ca.PEM())
	key := string(testca.KeyPEM(t, ca.Issue(t, id)))
	for name, test := range map[string]struct {
		text string
		n    int
	}{
		"one": {good, 1}, "two": {good + good, 2}, "white space": {"\n" + good + "\n\n" + good, 2},
		"empty": {"", 0}, "text": {"hello", 0}, "text before": {"x\n" + good, 0}, "text behind": {good + "x", 0}, "a key": {key, 0}, "with a key": {good + key, 0},
		"broken, then good": {"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n" + good, 0},
		"truncated":         {good[:100], 0}, "no DER": {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			certificates, err := svid.ParseCertificates([]byte(test.text))
			if len(certificates) != test.n || (err == nil) != (test.n > 0) {
				t.Errorf("got %d certificates and %v", len(certificates), err)
			}
			if err != nil && strings.Contains(err.Error(), "PRIVATE") {
				t.Error("the error quotes its input")
			}
		})
	}
}

func FuzzParseCertificates(f *testing.F) {
	f.Add(testca.New(f, "cluster.local").PEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		certificates, err := svid.ParseCertificates(data)
		if err != nil {
			return
		}
		again, err := svid.ParseCertificates(svid.EncodeCertificates(certificates...))
		if err != nil || len(again) != len(certificates) {
			t.Errorf("what was read cannot be written and read again: %v", err)
		}
	})
}
