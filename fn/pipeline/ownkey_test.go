package pipeline_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/files"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// ownKeys judges the key of a user's Secret on both sides: as `meshless verify` does, and as the proxy that mounts it.
type ownKeys struct {
	ca          *testca.CA
	leaf, other string // keys, PEM
	certificate string
	render      func(tb testing.TB, key string) []string // errors
	proxy       func(key string) error
}

func newOwnKeys(tb testing.TB) *ownKeys {
	tb.Helper()
	w := newWorld(tb)
	w.now = time.Now()
	ca := testca.New(tb, "cluster.local")
	leaf := ca.Issue(tb, legacyID)
	c := w.config(tb, plainConfig)
	c.Spec.Certificates.CA.Additional = string(ca.PEM())
	secret := parse(tb, "apiVersion: v1\nkind: Secret\nmetadata: {name: legacy-tls, namespace: prod}\ndata: {}\n")
	set(tb, secret[0], base64.StdEncoding.EncodeToString(svid.EncodeCertificates(leaf.Leaf)), "data", api.LeafFile)
	rendered, _ := w.mustRun(tb, parse(tb, legacy), c)
	rendered = append(rendered, secret...)
	return &ownKeys{
		ca: ca, leaf: string(testca.KeyPEM(tb, leaf)), other: string(testca.KeyPEM(tb, ca.Issue(tb, legacyID))), certificate: string(svid.EncodeCertificates(leaf.Leaf)),
		render: func(tb testing.TB, key string) []string {
			set(tb, secret[0], base64.StdEncoding.EncodeToString([]byte(key)), "data", api.PlainKeyFile)
			r := &report.Report{}
			verify.Check(rendered, verify.Options{Now: w.now, EveryWorkload: true}, r)
			return r.Errors()
		},
		proxy: func(key string) error {
			_, err := identity.New(&files.Generation{LeafPEM: svid.EncodeCertificates(leaf.Leaf), BundlePEM: ca.PEM(), PlainKey: []byte(key),
				Mesh: proxytest.Mesh(), Workload: &podplan.Workload{SPIFFEID: legacyID}}, time.Now)
			return err
		},
	}
}

// TestOwnKeyOnBothSides: what a render accepts as the key of a user's Secret is what a proxy starts with, and both
// refuse the rest for the same reason.
func TestOwnKeyOnBothSides(t *testing.T) {
	k := newOwnKeys(t)
	exchange, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(exchange)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	for name, test := range map[string]struct{ key, want string }{
		"the key alone":            {k.leaf, ""},
		"space around it":          {"\n\n" + k.leaf + "\n \n", ""},
		"text before it":           {"Bag Attributes\n    localKeyID: 01\n" + k.leaf, ""},
		"text behind it":           {k.leaf + "text\n", "does not hold exactly one PEM block: it is broken, or text stands behind it"},
		"followed by its leaf":     {k.leaf + k.certificate, "does not hold exactly one PEM block, but 2 (1 PRIVATE KEY, 1 CERTIFICATE): keep the PKCS#8 key alone, which `openssl pkey -in FILE` prints"},
		"behind its leaf":          {k.certificate + k.leaf, "does not hold exactly one PEM block, but 2 (1 PRIVATE KEY, 1 CERTIFICATE)"},
		"with another key":         {k.leaf + k.other, "does not hold exactly one PEM block, but 2 (2 PRIVATE KEY)"},
		"behind a broken block":    {"-----BEGIN PRIVATE KEY-----\nhunter2\n" + k.leaf, "does not hold exactly one PEM block"},
		"a broken block":           {strings.Replace(k.leaf, "-----END", "-----", 1), "does not hold exactly one PEM block"},
		"SEC 1, with parameters":   {block("EC PARAMETERS", []byte{1}) + block("EC PRIVATE KEY", []byte{1}), "1 EC PRIVATE KEY, 1 EC PARAMETERS"},
		"PKCS#1":                   {block("RSA PRIVATE KEY", []byte{1}), "does not hold a PKCS#8 key"},
		"encrypted":                {block("ENCRYPTED PRIVATE KEY", []byte{1}), "does not hold a PKCS#8 key"},
		"broken PKCS#8":            {block("PRIVATE KEY", []byte("hunter2")), "holds a key that cannot be read"},
		"a key that cannot sign":   {block("PRIVATE KEY", der), "holds a key that cannot sign"},
		"far more than a key":      {k.leaf + strings.Repeat("\n", svid.MaxKey), "which is no key"},
		"the key of another":       {k.other, ""},
		"of an unknown block type": {block("SECRET", []byte{1}) + block("SECRET", []byte{1}), "does not hold exactly one PEM block, but 2: "},
	} {
		t.Run(name, func(t *testing.T) {
			render, proxy := strings.Join(k.render(t, test.key), "\n"), k.proxy(test.key)
			switch {
			case name == "the key of another":
				if !strings.Contains(render, "is the key of another certificate") || proxy == nil {
					t.Errorf("render: %q, proxy: %v", render, proxy)
				}
			case test.want == "":
				if render != "" || proxy != nil {
					t.Errorf("refused by the render (%q) or the proxy (%v)", render, proxy)
				}
			case !strings.Contains(render, test.want) || proxy == nil || !strings.Contains(proxy.Error(), test.want):
				t.Errorf("render: %q, proxy: %v, want %q of both", render, proxy, test.want)
			}
			if strings.Contains(render, "hunter2") || proxy != nil && strings.Contains(proxy.Error(), "hunter2") {
				t.Error("an error quotes the key")
			}
		})
	}
}

// FuzzOwnKey: a render accepts the key of a user's Secret if and only if a proxy does. A value without a PEM block is
// left to whoever opens it later, so only the proxy refuses it.
func FuzzOwnKey(f *testing.F) {
	k := newOwnKeys(f)
	for _, seed := range []string{k.leaf, k.other, k.leaf + k.certificate, k.certificate + k.leaf, "text\n" + k.leaf, k.leaf + "text", strings.ReplaceAll(k.leaf, "\n", "\r\n")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if !strings.Contains(key, "-----BEGIN") || strings.Contains(key, "AGE-SECRET-KEY-") {
			return // an age identity in a manifest is an error of its own
		}
		if render, proxy := k.render(t, key), k.proxy(key); (len(render) == 0) != (proxy == nil) {
			t.Errorf("render: %v, proxy: %v", render, proxy)
		}
	})
}
