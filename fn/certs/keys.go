// Package certs decides which certificates are due and makes them: the authorities of a rolling CA and the leaves
// (X.509-SVIDs) that they sign. It is pure: time comes in, certificates and keys go out, and nothing is read or
// written. Lifetimes and rules are those of docs/certificates.md.
package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
)

// generateKey makes a key of an algorithm of v1alpha1.KeyAlgorithms.
func generateKey(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case "ECDSA-P256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSA-P384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "Ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case "RSA-2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "RSA-3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA-4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, fmt.Errorf("key algorithm %q is unknown", algorithm)
}

// algorithmOf names the algorithm of a public key as the config spells it, or "" for one that the config cannot ask
// for.
func algorithmOf(public any) string {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA-" + map[elliptic.Curve]string{elliptic.P256(): "P256", elliptic.P384(): "P384"}[key.Curve]
	case ed25519.PublicKey:
		return "Ed25519"
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA-%d", key.N.BitLen())
	}
	return ""
}

// newSerial is a random positive number of at most 127 bits and never zero (RFC 5280, section 4.1.2.2, asks for at most
// 20 octets).
func newSerial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 127)
	serial, err := rand.Int(rand.Reader, limit)
	if err != nil {
		return nil, err
	}
	return serial.Add(serial, big.NewInt(1)), nil
}
