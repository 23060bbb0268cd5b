package svid

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// MaxKey is the size in bytes of the largest text that ParseKey reads: an RSA key of 4096 bits takes 3.3 KiB.
const MaxKey = 16 << 10

// EncodeKey is the PKCS#8 PEM text of a key.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: pkcs8, Bytes: der}), nil
}

const pkcs8 = "PRIVATE KEY"

// ParseKey reads one PKCS#8 key in PEM. A second block and text behind the block are errors, so that a render and a
// proxy never disagree about which of several keys counts. Text before the block is skipped: `openssl pkcs12` writes
// some. An error is a predicate that the caller gives a subject; it never quotes the input.
func ParseKey(text []byte) (crypto.Signer, error) {
	if len(text) > MaxKey {
		return nil, fmt.Errorf("holds more than %d bytes, which is no key", MaxKey)
	}
	if n := bytes.Count(text, beginBlock); n != 1 {
		return nil, fmt.Errorf("does not hold exactly one PEM block, but %s: keep the PKCS#8 key alone, which `openssl pkey -in FILE` prints", countBlocks(text, n))
	}
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("does not hold exactly one PEM block: it is broken, or text stands behind it")
	}
	defer clear(block.Bytes)
	if block.Type != pkcs8 {
		return nil, errors.New("does not hold a PKCS#8 key (PRIVATE KEY): `openssl pkcs8 -topk8 -nocrypt` converts other forms; with cert-manager, set privateKey.encoding to PKCS8")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil { // it is not wrapped, since it may quote what it read
		return nil, errors.New("holds a key that cannot be read: want ECDSA, Ed25519 or RSA in PKCS#8")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("holds a key that cannot sign: want ECDSA, Ed25519 or RSA")
	}
	return signer, nil
}

var beginBlock = []byte("-----BEGIN ")

// countBlocks says how many of the n PEM blocks of a text are of the types that are known.
func countBlocks(text []byte, n int) string {
	if n == 0 {
		return "none"
	}
	var known []string
	for _, kind := range []string{pkcs8, "ENCRYPTED PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "EC PARAMETERS", "CERTIFICATE"} {
		if n := bytes.Count(text, []byte("-----BEGIN "+kind+"-----")); n > 0 {
			known = append(known, fmt.Sprintf("%d %s", n, kind))
		}
	}
	if len(known) == 0 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d (%s)", n, strings.Join(known, ", "))
}

// KeyFits tells whether a private key belongs to a certificate.
func KeyFits(c *x509.Certificate, key crypto.Signer) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

// RSA keys are taken of so many bits. Below, they can be factored; above, their signatures cost more than those of any
// other key. The function makes none but these.
const minRSA, maxRSA = 2048, 4096

// CheckKey tells why the key of a certificate is not taken, of a leaf, an intermediate or an authority. Taken are the
// algorithms that `keyAlgorithm` has: others are broken, or cost a verifier more than a stranger may make it pay. The
// error is a predicate of the certificate.
func CheckKey(c *x509.Certificate) error {
	const wayOut = "have it issued anew with a key of ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits"
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA || bits > maxRSA {
			return fmt.Errorf("has an RSA key of %d bits, and those of %d to %d bits are taken: %s", bits, minRSA, maxRSA, wayOut)
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return fmt.Errorf("has a key on the curve %s, which is not taken: %s", key.Params().Name, wayOut)
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("has a key of %s, which is not taken: %s", c.PublicKeyAlgorithm, wayOut)
	}
	return nil
}
