package svid_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

// FuzzCertificatesEqual: certificates that were read are written in one form, and read again as the same, in the same
// order. No block of a file gets lost, since a bundle that lacks an authority, or a revoked one that is overlooked,
// changes who is trusted.
func FuzzCertificatesEqual(f *testing.F) {
	ca, other := testca.New(f, "cluster.local"), testca.New(f, "cluster.local")
	leaf := ca.Issue(f, id)
	f.Add(append(ca.PEM(), other.PEM()...))
	f.Add(append(svid.EncodeCertificates(leaf.Leaf), testca.KeyPEM(f, leaf)...))
	f.Add(bytes.ReplaceAll(ca.PEM(), []byte("\n"), []byte("\r\n")))
	f.Add([]byte(strings.Replace(string(ca.PEM()), "\n", "\nHeader: x\n\n", 1)))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		certificates, err := svid.ParseCertificates(data)
		if err != nil {
			if certificates != nil {
				t.Error("refused and read")
			}
			return
		}
		if n := bytes.Count(data, []byte("-----BEGIN ")); n != len(certificates) || n == 0 {
			t.Errorf("%d blocks, %d certificates", n, len(certificates))
		}
		text := svid.EncodeCertificates(certificates...)
		again, err := svid.ParseCertificates(text)
		if err != nil || len(again) != len(certificates) {
			t.Fatalf("what was read cannot be written and read again: %v", err)
		}
		for i := range again {
			if !again[i].Equal(certificates[i]) {
				t.Errorf("certificate %d differs", i)
			}
		}
		if !bytes.Equal(text, svid.EncodeCertificates(again...)) {
			t.Error("there are two written forms")
		}
	})
}

// FuzzVerify: whatever DER a peer presents, the verifier does not panic, and accepts nothing but what our authority has
// signed, byte for byte.
func FuzzVerify(f *testing.F) {
	ca := testca.New(f, "cluster.local")
	good := ca.Issue(f, id).Leaf
	f.Add(good.Raw)
	f.Add(ca.Certificate.Raw)
	f.Add(testca.New(f, "cluster.local").Issue(f, id).Leaf.Raw)
	block, _ := pem.Decode(ca.PEM())
	f.Add(append(block.Bytes, 0))
	b := bundle(f, nil, ca)
	now := time.Now()
	f.Fuzz(func(t *testing.T, der []byte) {
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		got, err := b.Verify([]*x509.Certificate{leaf}, x509.ExtKeyUsageServerAuth, now)
		if err == nil && !bytes.Equal(leaf.RawTBSCertificate, good.RawTBSCertificate) {
			t.Errorf("a certificate that nobody has signed is accepted as %s", got)
		}
		if (err == nil) == got.IsZero() {
			t.Errorf("identity %q with error %v", got, err)
		}
	})
}
