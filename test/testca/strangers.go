package testca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// Stranger is somebody without a certificate of the mesh, and what they present. The first is ordinary; each of the
// others wants a verifier to work.
type Stranger struct {
	Name     string
	Chain    tls.Certificate
	Replayed bool // the chain is a member's, the key is not
	Guessed  bool // the chain names an authority, and not its key
}

const (
	// room is for the certificates behind a leaf, in bytes: a little less than what a proxy takes in all.
	room = 7 << 10
	many = 200 // more than fit
)

func count(n int) string {
	if n == many {
		return "many"
	}
	return fmt.Sprint(n)
}

// Strangers are one of each kind. None has a leaf that the CA has signed, but for one who has a member's chain and not
// its key. Every leaf claims the SPIFFE ID.
func Strangers(tb testing.TB, ca *CA, id string) []Stranger {
	tb.Helper()
	s := &strangers{tb: tb, ca: ca, id: id}
	s.add("one self-signed certificate")
	s.signatures()
	s.shapes()
	s.contents()
	member := ca.Issue(tb, id)
	s.all = append(s.all,
		Stranger{Name: "a member's certificate without its key", Chain: tls.Certificate{Certificate: member.Certificate, PrivateKey: newKey(tb)}, Replayed: true})
	return s.all
}

type strangers struct {
	tb  testing.TB
	ca  *CA
	id  string
	all []Stranger
}

// add is a self-signed leaf with certificates behind it.
func (s *strangers) add(name string, behind ...[]byte) {
	s.all = append(s.all, Stranger{Name: name, Chain: s.below(template("", s.id), nil, behind...)})
}

// below makes a leaf that names the parent as its issuer, or itself. Nobody has signed it with the parent's key.
func (s *strangers) below(leaf, parent *x509.Certificate, behind ...[]byte) tls.Certificate {
	s.tb.Helper()
	key := newKey(s.tb)
	if parent == nil {
		parent = leaf
	}
	der := s.make(leaf, parent, key.Public(), key)
	return tls.Certificate{Certificate: append([][]byte{der}, behind...), PrivateKey: key}
}

func (s *strangers) make(c, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) []byte {
	s.tb.Helper()
	claimed := *parent
	claimed.PublicKey = nil // what the parent's key would be; we sign with another
	der, err := x509.CreateCertificate(rand.Reader, c, &claimed, public, signer)
	if err != nil {
		s.tb.Fatal(err)
	}
	return der
}

func (s *strangers) key(curve elliptic.Curve) *ecdsa.PrivateKey {
	s.tb.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		s.tb.Fatal(err)
	}
	return key
}

// signatures are chains that want expensive signatures verified.
func (s *strangers) signatures() {
	s.tb.Helper()
	s.all = append(s.all, Stranger{Name: "claims an authority", Chain: s.below(template("", s.id), s.ca.Certificate)},
		Stranger{Name: "claims an authority, and sends it along", Chain: s.below(template("", s.id), s.ca.Certificate, s.ca.Certificate.Raw)},
		Stranger{Name: "a line of 3, each has the name of an authority", Chain: s.claims(3, &x509.Certificate{RawSubject: s.ca.Certificate.RawSubject}), Guessed: true})
	for _, c := range []struct {
		curve elliptic.Curve
		n     int
	}{{elliptic.P224(), many}, {elliptic.P256(), many}, {elliptic.P384(), many}, {elliptic.P521(), 2}, {elliptic.P521(), 4}, {elliptic.P521(), many}} {
		key := s.key(c.curve)
		s.all = append(s.all, Stranger{Name: fmt.Sprintf("%s parents of one name and one %s key", count(c.n), c.curve.Params().Name), Chain: s.parents(key, key.Public(), c.n)})
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.all = append(s.all, Stranger{Name: "many parents of one name and one Ed25519 key", Chain: s.parents(edwards, edwards.Public(), many)})
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, k := range []struct {
		bits, exponent int
	}{{1024, 65537}, {2048, 1<<31 - 1}, {4096, 1<<31 - 1}, {8192, 65537}} {
		public := &rsa.PublicKey{N: modulus(s.tb, k.bits), E: k.exponent}
		s.all = append(s.all, Stranger{Name: fmt.Sprintf("many parents of one name and one RSA-%d key, exponent %d", k.bits, k.exponent), Chain: s.parents(small, public, many)})
	}
}

// parents are up to n intermediates of one subject and one key, which differ in a name, all plausible parents of each
// other and of the leaf.
func (s *strangers) parents(signer crypto.Signer, public crypto.PublicKey, n int) tls.Certificate {
	s.tb.Helper()
	parent := authority("parent")
	var behind [][]byte
	for size := 0; len(behind) < n; {
		parent.DNSNames = []string{fmt.Sprint(len(behind))}
		der := s.fit(s.make(parent, parent, public, signer), public)
		if size += len(der); size > room {
			break
		}
		behind = append(behind, der)
	}
	leaf := s.fit(s.make(template("", s.id), parent, newKey(s.tb).Public(), signer), public)
	return tls.Certificate{Certificate: append([][]byte{leaf}, behind...), PrivateKey: newKey(s.tb)}
}

// fit gives a certificate a signature of the length that an RSA key wants, of another key's.
func (s *strangers) fit(der []byte, public crypto.PublicKey) []byte {
	s.tb.Helper()
	key, ok := public.(*rsa.PublicKey)
	if !ok {
		return der
	}
	var outer struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		s.tb.Fatal(err)
	}
	bytes := append([]byte{0}, outer.Signature.Bytes...)
	bytes = slices.Repeat(bytes, key.Size()/len(bytes)+1)[:key.Size()]
	outer.Signature = asn1.BitString{Bytes: bytes, BitLength: 8 * len(bytes)}
	der, err := asn1.Marshal(outer)
	if err != nil {
		s.tb.Fatal(err)
	}
	return der
}

// modulus is a number of the size of an RSA key's; nobody knows its factors.
func modulus(tb testing.TB, bits int) *big.Int {
	tb.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
	if err != nil {
		tb.Fatal(err)
	}
	return n.SetBit(n.SetBit(n, 0, 1), bits-1, 1)
}

// shapes are chains of another shape than a line.
func (s *strangers) shapes() {
	s.tb.Helper()
	curve := elliptic.P384()
	one, two := s.key(curve), s.key(curve)
	first, second := authority("first"), authority("second")
	loop := [][]byte{s.make(first, second, one.Public(), two), s.make(second, first, two.Public(), one)}
	leaf := s.make(template("", s.id), first, newKey(s.tb).Public(), one)
	s.all = append(s.all, Stranger{Name: "two authorities that signed each other", Chain: tls.Certificate{Certificate: append([][]byte{leaf}, loop...), PrivateKey: newKey(s.tb)}})

	s.all = append(s.all, Stranger{Name: "a line of 8, the last claims an authority", Chain: s.line(8, s.ca.Certificate)}, Stranger{Name: "a line of 3, the last claims an authority", Chain: s.line(3, s.ca.Certificate)})
	s.all = append(s.all, Stranger{Name: "a line of 3, each claims an authority", Chain: s.claims(3, s.ca.Certificate)})
	self := s.make(authority("same"), authority("same"), one.Public(), one)
	s.add("one certificate again and again", slices.Repeat([][]byte{self}, room/len(self))...)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.tb.Fatal(err)
	}
	tiny := s.make(&x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, edwards.Public(), edwards)
	s.add("40 tiny certificates", slices.Repeat([][]byte{tiny}, room/len(tiny))...)
	s.add("160 tiny certificates", slices.Repeat([][]byte{tiny}, 30<<10/len(tiny))...)
	point := s.make(&x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, s.key(elliptic.P521()).Public(), edwards)
	s.add("tiny certificates with points of P-521", slices.Repeat([][]byte{point}, room/len(point))...)
}

// line is a chain in which each certificate is signed by the next.
func (s *strangers) line(n int, top *x509.Certificate) tls.Certificate {
	s.tb.Helper()
	var chain [][]byte
	key := s.key(elliptic.P384())
	parent, signer := top, key
	for i := range n - 1 {
		c, key := authority(fmt.Sprint("line ", i)), s.key(elliptic.P384())
		chain = append(chain, s.make(c, parent, key.Public(), signer))
		parent, signer = c, key
	}
	slices.Reverse(chain)
	leaf := s.make(template("", s.id), parent, newKey(s.tb).Public(), signer)
	return tls.Certificate{Certificate: append([][]byte{leaf}, chain...), PrivateKey: newKey(s.tb)}
}

// claims are certificates that all have an authority's name, and name it as their issuer.
func (s *strangers) claims(n int, authorityOf *x509.Certificate) tls.Certificate {
	s.tb.Helper()
	var behind [][]byte
	for range n - 1 {
		c := authority("")
		c.RawSubject = authorityOf.RawSubject
		key := newKey(s.tb)
		behind = append(behind, s.make(c, authorityOf, key.Public(), key))
	}
	return s.below(template("", s.id), authorityOf, behind...)
}

// contents are single certificates, of which everything is long.
func (s *strangers) contents() {
	s.tb.Helper()
	leaf := func(name string, change func(*x509.Certificate)) {
		c := template("", s.id)
		change(c)
		s.all = append(s.all, Stranger{Name: name, Chain: s.below(c, nil)})
	}
	leaf("2,700 DNS names", func(c *x509.Certificate) { c.DNSNames = slices.Repeat([]string{"a"}, 2700) })
	leaf("2,700 URI names", func(c *x509.Certificate) { c.URIs = slices.Repeat([]*url.URL{{Opaque: "a"}}, 2700) })
	leaf("9,000 URI names", func(c *x509.Certificate) { c.URIs = slices.Repeat([]*url.URL{{Opaque: "a"}}, 9000) })
	leaf("a SPIFFE ID of 7 KiB", func(c *x509.Certificate) { c.URIs[0].Path += strings.Repeat("/a", room/2) })
	leaf("a subject and an issuer of 340 parts", func(c *x509.Certificate) {
		c.Subject.ExtraNames = slices.Repeat([]pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "a"}}, 340)
	})
	leaf("600 extensions", func(c *x509.Certificate) {
		for i := range 600 {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 30, i}})
		}
	})
	leaf("unknown critical extensions", func(c *x509.Certificate) {
		for i := range 400 {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 30, i}, Critical: true})
		}
	})
	leaf("an extension of 7 KiB", func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 30, 1}, Value: bytes.Repeat([]byte{1}, room)}}
	})
	leaf("500 CRL distribution points", func(c *x509.Certificate) { c.CRLDistributionPoints = slices.Repeat([]string{"a"}, 500) })
	leaf("500 policies", func(c *x509.Certificate) {
		for i := range 500 {
			c.PolicyIdentifiers = append(c.PolicyIdentifiers, asn1.ObjectIdentifier{1, 2, 3, 1 + i})
			policy, err := x509.OIDFromInts([]uint64{1, 2, 3, uint64(1 + i)})
			if err != nil {
				s.tb.Fatal(err)
			}
			c.Policies = append(c.Policies, policy)
		}
	})
	s.constrained()
}

// constrained are names of a leaf against constraints of its parents.
func (s *strangers) constrained() {
	s.tb.Helper()
	parent, key := authority("constrained"), newKey(s.tb)
	parent.PermittedURIDomains = []string{"cluster.local"}
	for i := range 300 {
		parent.ExcludedDNSDomains = append(parent.ExcludedDNSDomains, fmt.Sprintf("%d.x", i))
	}
	c := template("", s.id)
	c.DNSNames = slices.Repeat([]string{"a.y"}, 300)
	chain := s.below(c, parent, s.make(parent, s.ca.Certificate, key.Public(), key))
	s.all = append(s.all, Stranger{Name: "300 names below 300 constraints", Chain: chain})
}

// template is a certificate as leaves of the mesh are, valid from an hour ago for a day.
func template(name, id string) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if uri, err := url.Parse(id); err == nil && id != "" {
		c.URIs = []*url.URL{uri}
	}
	return c
}

func authority(name string) *x509.Certificate {
	c := template(name, "")
	c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	return c
}
