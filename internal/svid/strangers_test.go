package svid_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

func parse(t testing.TB, c tls.Certificate) []*x509.Certificate {
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

// countingCurve counts the signatures that are verified on it. It has parameters of its own, since crypto/ecdsa would
// else use its own curve.
type countingCurve struct {
	elliptic.Curve
	n      *int
	params *elliptic.CurveParams
}

func (c countingCurve) Params() *elliptic.CurveParams { return c.params }

func (c countingCurve) ScalarBaseMult(k []byte) (x, y *big.Int) {
	*c.n++
	//lint:ignore SA1019 crypto/ecdsa calls it, and here counts
	return c.Curve.ScalarBaseMult(k)
}

// TestStrangersKeysAreNotUsed: no signature is verified with a key that an authority has not signed.
func TestStrangersKeysAreNotUsed(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	b := bundle(t, nil, ca)
	for _, stranger := range testca.Strangers(t, ca, id) {
		used := 0
		chain := parse(t, stranger.Chain)
		for _, c := range chain[1:] {
			if key, ok := c.PublicKey.(*ecdsa.PublicKey); ok && !c.Equal(ca.Certificate) {
				counted, params := *key, *key.Params()
				counted.Curve = countingCurve{key.Curve, &used, &params}
				c.PublicKey = &counted
			}
		}
		_, _ = b.Verify(chain, x509.ExtKeyUsageClientAuth, time.Now())
		if used > 0 {
			t.Errorf("%s: keys of the stranger are used %d times", stranger.Name, used)
		}
	}
}

// TestStrangersCostOneSignature: verifying what a stranger presents takes one signature of an authority's key at most,
// or one more where the chain names authorities and none of their keys.
func TestStrangersCostOneSignature(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	b := bundle(t, nil, ca)
	for _, stranger := range testca.Strangers(t, ca, id) {
		n := svid.CountSignatures(t)
		if got, err := b.Verify(parse(t, stranger.Chain), x509.ExtKeyUsageClientAuth, time.Now()); (err == nil) != stranger.Replayed {
			t.Errorf("%s: %s, %v", stranger.Name, got, err)
		}
		want := int64(1)
		if stranger.Guessed {
			want = 2
		}
		if n := n.Load(); n > want {
			t.Errorf("%s: %d signatures, want %d", stranger.Name, n, want)
		}
	}
}

// TestGenuineIntermediates: whoever has seen the intermediates of a mesh makes nobody verify them again and again.
func TestGenuineIntermediates(t *testing.T) {
	root := testca.New(t, "cluster.local", unlimited)
	outer := root.Issue(t, "spiffe://cluster.local", intermediate("outer"))
	inner := testca.Below(t, outer).Issue(t, "spiffe://cluster.local", intermediate("inner"))
	b := bundle(t, nil, root)
	member := []*x509.Certificate{testca.Below(t, inner).Issue(t, id).Leaf, inner.Leaf, outer.Leaf}
	forged := slices.Clone(member)
	forged[0] = testca.Below(t, root.Issue(t, "spiffe://cluster.local", intermediate("inner"))).Issue(t, id).Leaf
	for i, test := range []struct {
		name  string
		chain []*x509.Certificate
		want  int64
	}{{"forged", forged, 3}, {"forged again", forged, 1}, {"genuine", member, 1}, {"as a server sends its root", append(slices.Clone(member), root.Certificate), 1}} {
		n := svid.CountSignatures(t)
		if _, err := b.Verify(test.chain, x509.ExtKeyUsageClientAuth, time.Now()); (err == nil) != (i > 1) || n.Load() != test.want {
			t.Errorf("%s: %d signatures, want %d; %v", test.name, n.Load(), test.want, err)
		}
	}
}

func unlimited(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = -1, false }

func intermediate(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject.CommonName, c.URIs, c.ExtKeyUsage = name, nil, nil
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
		unlimited(c)
	}
}
