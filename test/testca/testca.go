// Package testca makes certificates for tests: good ones, and ones with exactly one defect. Nothing of it is stored;
// tests alone import it.
package testca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
)

// CA is a certificate authority that lives as long as a test.
type CA struct {
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// New makes a CA for the trust domain, valid from an hour ago for a year. Each change edits the template before it is
// signed.
func New(tb testing.TB, trustDomain string, changes ...func(*x509.Certificate)) *CA {
	tb.Helper()
	key := newKey(tb)
	serial := newSerial(tb)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "test CA " + serial.Text(16)},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	for _, change := range changes {
		change(template)
	}
	return &CA{Certificate: sign(tb, template, template, &key.PublicKey, key), key: key}
}

// Again makes another certificate of the CA's key, with another name.
func (ca *CA) Again(tb testing.TB) *CA {
	tb.Helper()
	template := *ca.Certificate
	template.SerialNumber = newSerial(tb)
	template.Subject = pkix.Name{CommonName: "test CA " + template.SerialNumber.Text(16)}
	template.RawSubject = nil
	return &CA{Certificate: sign(tb, &template, &template, &ca.key.PublicKey, ca.key), key: ca.key}
}

// Below makes a CA of a certificate that Issue made, allowed to sign or not.
func Below(tb testing.TB, c tls.Certificate) *CA {
	tb.Helper()
	key, ok := c.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		tb.Fatalf("testca: a %T", c.PrivateKey)
	}
	return &CA{Certificate: c.Leaf, key: key}
}

// Issue makes a leaf for the SPIFFE ID, valid from an hour ago for a day. Each change edits the template before it is
// signed.
func (ca *CA) Issue(tb testing.TB, id string, changes ...func(*x509.Certificate)) tls.Certificate {
	tb.Helper()
	key := newKey(tb)
	leaf := ca.Certify(tb, &key.PublicKey, id, changes...)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// Certify is Issue for a public key of any kind.
func (ca *CA) Certify(tb testing.TB, key crypto.PublicKey, id string, changes ...func(*x509.Certificate)) *x509.Certificate {
	tb.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(tb), URIs: []*url.URL{uri},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, change := range changes {
		change(template)
	}
	return sign(tb, template, ca.Certificate, key, ca.key)
}

// PublicRSA is a public key of so many bits. Nobody has the private one.
func PublicRSA(tb testing.TB, bits int) *rsa.PublicKey {
	tb.Helper()
	return &rsa.PublicKey{N: modulus(tb, bits), E: 65537}
}

// PEM is the CA certificate as a bundle file.
func (ca *CA) PEM() []byte { return svid.EncodeCertificates(ca.Certificate) }

// KeyPEM is the PKCS#8 key of a leaf that Issue made.
func KeyPEM(tb testing.TB, leaf tls.Certificate) []byte {
	tb.Helper()
	key, ok := leaf.PrivateKey.(crypto.Signer)
	if !ok {
		tb.Fatalf("%T cannot sign", leaf.PrivateKey)
	}
	text, err := svid.EncodeKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func newSerial(tb testing.TB) *big.Int {
	tb.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		tb.Fatal(err)
	}
	return serial.Add(serial, big.NewInt(1))
}

func sign(tb testing.TB, template, parent *x509.Certificate, key crypto.PublicKey, signer *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}
