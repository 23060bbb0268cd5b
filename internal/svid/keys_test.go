package svid_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

// TestKeys: a key is taken in the leaf, in an intermediate and in an authority alike, or in none.
func TestKeys(t *testing.T) {
	root := testca.New(t, "cluster.local", unlimited)
	on := func(curve elliptic.Curve) crypto.PublicKey {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return &key.PublicKey
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		key  crypto.PublicKey
		want string
	}{
		"P-256":    {on(elliptic.P256()), ""},
		"P-384":    {on(elliptic.P384()), ""},
		"Ed25519":  {edwards, ""},
		"RSA-2048": {testca.PublicRSA(t, 2048), ""},
		"RSA-4096": {testca.PublicRSA(t, 4096), ""},
		"P-224":    {on(elliptic.P224()), "has a key on the curve P-224"},
		"P-521":    {on(elliptic.P521()), "has a key on the curve P-521"},
		"RSA-1024": {testca.PublicRSA(t, 1024), "has an RSA key of 1024 bits"},
		"RSA-2047": {testca.PublicRSA(t, 2047), "has an RSA key of 2047 bits"},
		"RSA-4097": {testca.PublicRSA(t, 4097), "has an RSA key of 4097 bits"},
		"RSA-8192": {testca.PublicRSA(t, 8192), "has an RSA key of 8192 bits"},
	} {
		t.Run(name, func(t *testing.T) {
			says := func(where string, err error) {
				if (err == nil) != (test.want == "") || err != nil && (!strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "have it issued anew")) {
					t.Errorf("%s: got %v, want %q", where, err, test.want)
				}
			}
			_, err := bundle(t, nil, root).Verify([]*x509.Certificate{root.Certify(t, test.key, id)}, x509.ExtKeyUsageServerAuth, time.Now())
			says("leaf", err)
			authority := root.Certify(t, test.key, "spiffe://cluster.local", intermediate("middle"))
			_, err = svid.NewBundle(td, []*x509.Certificate{authority}, nil)
			says("authority", err)
			if test.want == "" {
				return // nobody has the key to sign a leaf with
			}
			n := svid.CountSignatures(t)
			leaf := root.Issue(t, id).Leaf
			leaf.RawIssuer, leaf.AuthorityKeyId = authority.RawSubject, authority.SubjectKeyId
			_, err = bundle(t, nil, root).Verify([]*x509.Certificate{leaf, authority}, x509.ExtKeyUsageServerAuth, time.Now())
			says("intermediate", err)
			if refused := new(svid.Error); !errors.As(err, &refused) || refused.Reason != svid.Malformed || n.Load() > 0 {
				t.Errorf("got %v after %d signatures", err, n.Load())
			}
		})
	}
}

// TestOrder: a chain in another order is refused, and the message says which certificate is where it does not belong.
func TestOrder(t *testing.T) {
	root := testca.New(t, "cluster.local", unlimited)
	outer := root.Issue(t, "spiffe://cluster.local", intermediate("outer"))
	inner := testca.Below(t, outer).Issue(t, "spiffe://cluster.local", intermediate("inner"))
	leaf := testca.Below(t, inner).Issue(t, id).Leaf
	long := []*x509.Certificate{}
	for signer, i := root, 0; i <= svid.MaxPath; i++ {
		next := signer.Issue(t, "spiffe://cluster.local", intermediate(strings.Repeat("i", i+1)))
		if i == svid.MaxPath {
			next = signer.Issue(t, id)
		}
		long, signer = append([]*x509.Certificate{next.Leaf}, long...), testca.Below(t, next)
	}
	for name, test := range map[string]struct {
		chain []*x509.Certificate
		want  string
	}{
		"in order":                  {[]*x509.Certificate{leaf, inner.Leaf, outer.Leaf}, ""},
		"with what does not belong": {[]*x509.Certificate{leaf, inner.Leaf, outer.Leaf, inner.Leaf, leaf}, ""},
		"intermediates exchanged":   {[]*x509.Certificate{leaf, outer.Leaf, inner.Leaf}, "certificate 2 of the chain is not the issuer of certificate 1: each must be signed by the next, the leaf first"},
		"one is missing":            {[]*x509.Certificate{leaf, inner.Leaf}, "the chain ends with one that is issued by \"outer\""},
		"longer than any":           {long, "the first 4 certificates lead to no authority"},
	} {
		_, err := bundle(t, nil, root).Verify(test.chain, x509.ExtKeyUsageServerAuth, time.Now())
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}
