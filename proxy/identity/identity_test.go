package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/files"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

func good(t testing.TB) proxytest.Workload {
	t.Helper()
	ca := testca.New(t, proxytest.TrustDomain)
	return proxytest.Workload{CA: ca, Leaf: ca.Issue(t, proxytest.ID("app")), Mesh: proxytest.Mesh(), Workload: podplan.Workload{SPIFFEID: proxytest.ID("app")}}
}

// load is what the proxy makes of files.
func load(t testing.TB, f proxytest.Files) (*identity.Snapshot, error) {
	t.Helper()
	dir := t.TempDir()
	f.Publish(t, dir)
	g, err := files.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return identity.New(g, time.Now)
}

func TestNew(t *testing.T) {
	w := good(t)
	w.Workload.PermissivePorts = netset.PortsOf(8080)
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	sealed := w.Sealed(t)
	for name, f := range map[string]proxytest.Files{
		"sealed":                 sealed,
		"plain":                  w.Plain(t),
		"sealed wins over plain": sealed.With(api.PlainKeyFile, []byte("not a key")),
		"post-quantum": sealed.With(api.IdentityFile, []byte(hybrid.String())).
			With(api.SealedKeyFile, proxytest.Seal(t, testca.KeyPEM(t, w.Leaf), hybrid.Recipient())),
	} {
		s, err := load(t, f)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.ID.String() != proxytest.ID("app") || s.PortMode(8080) != podplan.PortPermissive || s.PortMode(8081) != podplan.PortStrict || s.Usable() != nil {
			t.Errorf("%s: got %+v", name, s)
		}
	}
}

// TestNewRefuses checks the message too: it must say what is wrong, and never with a secret in it.
func TestNewRefuses(t *testing.T) {
	w := good(t)
	sealed := w.Sealed(t)
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	seal := func(plain []byte) proxytest.Files {
		return sealed.With(api.IdentityFile, []byte(id.String())).With(api.SealedKeyFile, proxytest.Seal(t, plain, id.Recipient()))
	}
	change := func(f func(*proxytest.Workload)) proxytest.Files {
		changed := good(t)
		f(&changed)
		return changed.Sealed(t)
	}
	secret := id.String()
	cases := map[string]struct {
		files proxytest.Files
		want  string
	}{
		"identity of another":  {sealed.With(api.IdentityFile, []byte(id.String())), "none of the identities"},
		"broken identity":      {sealed.With(api.IdentityFile, []byte(secret[:len(secret)-2]+"!!")), "no list of age identities"},
		"text as identity":     {sealed.With(api.IdentityFile, []byte("hunter2")), "no list of age identities"},
		"too many identities":  {sealed.With(api.IdentityFile, []byte(strings.Repeat(id.String()+"\n", 17))), "at most 16"},
		"not age":              {sealed.With(api.SealedKeyFile, testca.KeyPEM(t, w.Leaf)), "not an armored age file"},
		"changed ciphertext":   {sealed.With(api.SealedKeyFile, flip(t, sealed[api.SealedKeyFile])), api.SealedKeyFile},
		"bomb":                 {seal(bytes.Repeat([]byte("A"), 17<<10)), "opens to more than"},
		"sealed text":          {seal([]byte("hunter2")), "exactly one PEM block"},
		"two keys":             {seal(append(testca.KeyPEM(t, w.Leaf), testca.KeyPEM(t, w.Leaf)...)), "exactly one PEM block"},
		"PKCS#1":               {seal(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: []byte("x")})), "PKCS8"},
		"broken PKCS#8":        {seal(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("hunter2")})), "cannot be read"},
		"key of another":       {seal(testca.KeyPEM(t, w.CA.Issue(t, proxytest.ID("app")))), "does not belong to the leaf"},
		"another workload":     {change(func(w *proxytest.Workload) { w.Leaf = w.CA.Issue(t, proxytest.ID("other")) }), "another workload"},
		"another CA":           {change(func(w *proxytest.Workload) { w.CA = testca.New(t, proxytest.TrustDomain) }), "signed by no authority"},
		"another trust domain": {change(func(w *proxytest.Workload) { w.Mesh.TrustDomain = "other" }), "trust domain"},
		"expired":              {change(func(w *proxytest.Workload) { w.Leaf = w.CA.Issue(t, proxytest.ID("app"), until(-time.Minute)) }), "expired"},
		"not a client": {change(func(w *proxytest.Workload) {
			w.Leaf = w.CA.Issue(t, proxytest.ID("app"), only(x509.ExtKeyUsageServerAuth))
		}), "not meant for"},
		"not a server": {change(func(w *proxytest.Workload) {
			w.Leaf = w.CA.Issue(t, proxytest.ID("app"), only(x509.ExtKeyUsageClientAuth))
		}), "not meant for"},
		"revoked":               {change(func(w *proxytest.Workload) { w.Mesh.RevokedKeys = []string{svid.KeyDigest(w.Leaf.Leaf)} }), "revoked"},
		"leaf as bundle":        {sealed.With(api.BundleFile, sealed[api.LeafFile]), "not a CA"},
		"key beside the bundle": {sealed.With(api.BundleFile, append(testca.KeyPEM(t, w.Leaf), sealed[api.BundleFile]...)), "not a certificate"},
		"empty leaf":            {sealed.With(api.LeafFile, []byte{}), "holds no certificate"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, c.files)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), secret[:20]) {
				t.Errorf("the error quotes a secret: %v", err)
			}
		})
	}
}

func until(d time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(d) }
}

func only(usage x509.ExtKeyUsage) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{usage} }
}

// flip changes the payload of an armored file without breaking its armor.
func flip(t *testing.T, armored []byte) []byte {
	t.Helper()
	lines := strings.Split(string(armored), "\n")
	at := len(lines) - 4 // in the payload
	other := "A"
	if lines[at][0] == 'A' {
		other = "B"
	}
	lines[at] = other + lines[at][1:]
	return []byte(strings.Join(lines, "\n"))
}

// TestKeyAlgorithms: every algorithm that the function can issue.
func TestKeyAlgorithms(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ECDSA-P384": p384, "Ed25519": ed, "RSA-2048": rsaKey} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		w := good(t)
		f := w.Plain(t).With(api.PlainKeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		// The leaf is P-256, so a readable key of another algorithm fails at the comparison and no earlier.
		if _, err := load(t, f); err == nil || !strings.Contains(err.Error(), "does not belong to the leaf") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUsable: a generation that was good does not stay so.
func TestUsable(t *testing.T) {
	dir := t.TempDir()
	good(t).Sealed(t).Publish(t, dir)
	g, err := files.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s, err := identity.New(g, func() time.Time { return now })
	if err != nil || s.Usable() != nil {
		t.Fatalf("%v, %v", err, s.Usable())
	}
	now = now.Add(25 * time.Hour)
	if err := s.Usable(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("a day later: %v", err)
	}
	if _, err := s.VerifyPeer([]*x509.Certificate{s.Leaf}, x509.ExtKeyUsageClientAuth); err == nil {
		t.Error("an expired peer is accepted")
	}
}

func TestTLSConfigs(t *testing.T) {
	s, err := load(t, good(t).Sealed(t))
	if err != nil {
		t.Fatal(err)
	}
	server := s.ServerConfig(nil)
	client, _ := s.ClientConfig(nil)
	if !server.SessionTicketsDisabled || client.ClientSessionCache != nil || server.VerifyConnection == nil || client.VerifyConnection == nil {
		t.Error("sessions could be resumed, or connections are not verified")
	}
	if server.ClientCAs.Equal(x509.NewCertPool()) {
		t.Error("clients do not learn whom we trust")
	}
	if s.ServerConfig(nil) == server {
		t.Error("two handshakes share a configuration")
	}
}
