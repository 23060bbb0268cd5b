package certs_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/program"
)

// pair is a leaf as it is sealed and committed: text.
type pair struct{ leaf, key []byte }

func encode(t testing.TB, leaf *certs.Leaf) pair {
	t.Helper()
	key, err := svid.EncodeKey(leaf.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{leaf: svid.EncodeCertificates(leaf.Certificate), key: key}
}

// skipSlow leaves out what takes seconds to make.
func skipSlow(t *testing.T, algorithm string) {
	t.Helper()
	if testing.Short() && (algorithm == "RSA-3072" || algorithm == "RSA-4096") {
		t.Skip("makes large RSA keys")
	}
}

// TestInterop: for each algorithm of the config, what is issued is accepted by every verifier that an X.509-SVID meets,
// and by none of them under another bundle.
func TestInterop(t *testing.T) {
	foreign := roll(t, policy("ECDSA-P256"), nil, start)
	for _, algorithm := range v1alpha1.KeyAlgorithms {
		t.Run(algorithm, func(t *testing.T) {
			skipSlow(t, algorithm)
			p := policy(algorithm)
			l := roll(t, p, nil, start)
			server := encode(t, issue(t, p, certs.Request{ID: web, DNSNames: []string{"web.prod", "web.prod.svc.cluster.local"}}, l.In(v1alpha1.SlotActive), start))
			client := encode(t, issue(t, p, certs.Request{ID: web}, l.In(v1alpha1.SlotActive), start))
			acceptEverywhere(t, server, client, l, start)
			refuseEverywhere(t, server, client, foreign, start)
		})
	}
}

// TestRotationAcrossAlgorithms: the config's algorithm changes in every signing period, so that authorities of one
// algorithm sign leaves of another, and bundles hold several. At each step every leaf is accepted under every bundle
// that a pod may have then: the one before and the one after.
func TestRotationAcrossAlgorithms(t *testing.T) {
	now := start
	l := roll(t, policy("ECDSA-P256"), nil, now)
	leaf := encode(t, issue(t, policy("ECDSA-P256"), certs.Request{ID: web}, l.In(v1alpha1.SlotActive), now))
	for _, algorithm := range []string{"ECDSA-P384", "RSA-2048", "Ed25519", "RSA-3072", "ECDSA-P256", "RSA-4096", "Ed25519"} {
		if testing.Short() && (algorithm == "RSA-3072" || algorithm == "RSA-4096") {
			continue
		}
		p := policy(algorithm)
		request := certs.Request{ID: web, Stored: &certs.Stored{LeafPEM: string(leaf.leaf), Record: certs.Record{KeyDigest: digestOf(t, leaf)}}}
		if reason := p.Evaluate(request, bundle(t, l), now); reason.None() || reason.Due || !strings.Contains(reason.Text, "the key algorithm changed to "+algorithm) {
			t.Errorf("%s: a leaf of another algorithm: %+v", algorithm, reason)
		}
		// by an authority of the old algorithm
		fresh := encode(t, issue(t, p, certs.Request{ID: web}, l.In(v1alpha1.SlotActive), now))
		acceptEverywhere(t, fresh, leaf, l, now)

		next := now.Add(p.SigningPeriod)
		renewed := encode(t, issue(t, p, certs.Request{ID: web}, l.In(v1alpha1.SlotActive), next.Add(-time.Hour)))
		rolled, err := p.Roll(l, next.Add(-time.Hour).Add(p.Validity), next)
		if err != nil {
			t.Fatal(err)
		}
		promoted := encode(t, issue(t, p, certs.Request{ID: web}, rolled.In(v1alpha1.SlotActive), next))
		for _, known := range []certs.Authorities{l, rolled} {
			acceptEverywhere(t, renewed, promoted, known, next)
		}
		if got := keyAlgorithm(rolled.In(v1alpha1.SlotNext).Certificate); got != algorithm {
			t.Errorf("the new authority is of %s, want %s", got, algorithm)
		}
		now, l, leaf = next, rolled, promoted
	}
}

// keyAlgorithm spells a key's algorithm as the config does.
func keyAlgorithm(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA-%d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA-" + strings.ReplaceAll(key.Params().Name, "-", "")
	}
	return c.PublicKeyAlgorithm.String()
}

func digestOf(t testing.TB, p pair) string {
	t.Helper()
	parsed, err := svid.ParseCertificates(p.leaf)
	if err != nil {
		t.Fatal(err)
	}
	return svid.KeyDigest(parsed[0])
}

func acceptEverywhere(t *testing.T, server, client pair, l certs.Authorities, now time.Time) {
	t.Helper()
	for name, verify := range verifiers {
		if err := verify(t, server, client, l, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func refuseEverywhere(t *testing.T, server, client pair, l certs.Authorities, now time.Time) {
	t.Helper()
	for name, verify := range verifiers {
		if err := verify(t, server, client, l, now); err == nil {
			t.Errorf("%s accepts it under another authority's bundle", name)
		}
	}
}

var verifiers = map[string]func(t testing.TB, server, client pair, l certs.Authorities, now time.Time) error{
	"our verifier":                  verifyOurs,
	"go-spiffe":                     verifyGoSPIFFE,
	"a TLS 1.3 handshake":           handshake,
	"Envoy's SPIFFE validator":      verifyEnvoy,
	"openssl verify -x509_strict":   verifyOpenSSL,
	"a browser's check of the name": verifyHost,
}

func verifyOurs(t testing.TB, server, client pair, l certs.Authorities, now time.Time) error {
	for _, p := range []pair{server, client} {
		parsed, err := svid.ParseCertificates(p.leaf)
		if err != nil {
			return err
		}
		if id, err := bundle(t, l).VerifyLeaf(parsed[0], now); err != nil || id != web {
			return fmt.Errorf("verified as %s: %w", id, err)
		}
	}
	return nil
}

// verifyGoSPIFFE reads leaf, key and bundle from their text as a workload with go-spiffe would.
func verifyGoSPIFFE(_ testing.TB, server, client pair, l certs.Authorities, now time.Time) error {
	trusted, err := x509bundle.Parse(td, svid.EncodeCertificates(l.Certificates()...))
	if err != nil {
		return err
	}
	for _, p := range []pair{server, client} {
		own, err := x509svid.Parse(p.leaf, p.key)
		if err != nil {
			return err
		}
		der, key, err := own.MarshalRaw()
		if err != nil {
			return err
		}
		if own, err = x509svid.ParseRaw(der, key); err != nil {
			return err
		}
		if id, _, err := x509svid.Verify(own.Certificates, trusted, x509svid.WithTime(now)); err != nil || id != web || own.ID != web {
			return fmt.Errorf("verified as %s: %w", id, err)
		}
	}
	return nil
}

// handshake is mutual TLS 1.3 in memory; both ends verify in VerifyConnection, as the proxies do.
func handshake(t testing.TB, server, client pair, l certs.Authorities, now time.Time) error {
	config := func(own pair, usage x509.ExtKeyUsage) *tls.Config {
		certificate, err := tls.X509KeyPair(own.leaf, own.key)
		if err != nil {
			t.Fatal(err)
		}
		trusted := bundle(t, l)
		return &tls.Config{
			Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert,
			// the names are SPIFFE IDs, which VerifyConnection reads
			InsecureSkipVerify: true, SessionTicketsDisabled: true, Time: func() time.Time { return now },
			VerifyConnection: func(s tls.ConnectionState) error {
				id, err := trusted.Verify(s.PeerCertificates, usage, now)
				if err == nil && id != web {
					err = fmt.Errorf("the peer is %s", id)
				}
				return err
			},
		}
	}
	a, b := net.Pipe()
	deadline := time.Now().Add(20 * time.Second)
	for _, end := range []net.Conn{a, b} {
		if err := end.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := end.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	done := make(chan error, 1)
	serverSide := tls.Server(a, config(server, x509.ExtKeyUsageClientAuth))
	go func() {
		err := serverSide.Handshake()
		if err == nil {
			_, err = serverSide.Write([]byte("x")) // a client of TLS 1.3 is done before the server has judged it
		}
		done <- err
	}()
	clientSide := tls.Client(b, config(client, x509.ExtKeyUsageServerAuth))
	_, err := clientSide.Read(make([]byte, 1))
	if served := <-done; err == nil {
		err = served
	}
	return err
}

// verifyEnvoy does what Envoy's validator envoy.tls.cert_validator.spiffe does
// (source/extensions/transport_sockets/tls/cert_validator/spiffe/spiffe_validator.cc), with crypto/x509 alone: the leaf
// is no CA and may sign nothing; its first URI name says the trust domain, whose bundle alone the chain is verified
// against; then a match_typed_subject_alt_names of type URI compares the whole ID.
func verifyEnvoy(_ testing.TB, server, client pair, l certs.Authorities, now time.Time) error {
	bundles := map[string]*x509.CertPool{td.Name(): x509.NewCertPool(), "another.domain": x509.NewCertPool()}
	for _, ca := range l.Certificates() {
		bundles[td.Name()].AddCert(ca)
	}
	for side, p := range map[x509.ExtKeyUsage]pair{x509.ExtKeyUsageServerAuth: server, x509.ExtKeyUsageClientAuth: client} {
		parsed, err := svid.ParseCertificates(p.leaf)
		if err != nil {
			return err
		}
		leaf := parsed[0]
		if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCRLSign|x509.KeyUsageCertSign) != 0 {
			return fmt.Errorf("the leaf is a CA")
		}
		if len(leaf.URIs) != 1 {
			return fmt.Errorf("the leaf has %d URI names", len(leaf.URIs))
		}
		rest, ok := strings.CutPrefix(leaf.URIs[0].String(), "spiffe://")
		domain, _, slash := strings.Cut(rest, "/")
		if !ok || !slash || bundles[domain] == nil {
			return fmt.Errorf("no bundle for %q", domain)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: bundles[domain], CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{side}}); err != nil {
			return err
		}
		if leaf.URIs[0].String() != "spiffe://cluster.local/ns/prod/deployment/web" {
			return fmt.Errorf("the leaf is for %s", leaf.URIs[0])
		}
	}
	return nil
}

// verifyOpenSSL asks the real program; test/interop asks it for handshakes.
func verifyOpenSSL(t testing.TB, server, client pair, l certs.Authorities, now time.Time) error {
	openssl := program.Find(t, "openssl", "apt-get install openssl")
	folder := t.TempDir()
	trusted := filepath.Join(folder, "ca.crt")
	if err := os.WriteFile(trusted, svid.EncodeCertificates(l.Certificates()...), 0o600); err != nil {
		t.Fatal(err)
	}
	for purpose, p := range map[string]pair{"sslserver": server, "sslclient": client} {
		leaf := filepath.Join(folder, purpose+".crt")
		if err := os.WriteFile(leaf, p.leaf, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(openssl, "verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-purpose", purpose, "-attime", fmt.Sprint(now.Unix()), "-CAfile", trusted, leaf).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// verifyHost does what an ordinary TLS client does; leaves without Services have no name to check.
func verifyHost(_ testing.TB, server, _ pair, l certs.Authorities, now time.Time) error {
	parsed, err := svid.ParseCertificates(server.leaf)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	for _, ca := range l.Certificates() {
		pool.AddCert(ca)
	}
	options := x509.VerifyOptions{Roots: pool, CurrentTime: now}
	if len(parsed[0].DNSNames) > 0 {
		options.DNSName = "web.prod.svc.cluster.local"
	}
	_, err = parsed[0].Verify(options)
	return err
}
