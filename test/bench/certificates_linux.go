package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
)

const (
	trustDomain = "cluster.local"
	serverHost  = "server.prod.svc.cluster.local" // the server's DNS SAN, by which the peers verify it
)

// spiffeID is that of a workload of the benchmark's mesh.
func spiffeID(name string) string { return "spiffe://" + trustDomain + "/ns/prod/deployment/" + name }

// authority is the CA of one run, P-256 as every key here. Nothing of it outlives the run.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "meshless bench CA"}, URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	a := &authority{}
	made, err := a.sign(template)
	if err != nil {
		return nil, err
	}
	a.certificate, a.key = made.Leaf, made.PrivateKey.(*ecdsa.PrivateKey)
	return a, nil
}

// issue makes the leaf of a workload: one URI SAN for us, one DNS SAN for the peers.
func (a *authority) issue(name string) (tls.Certificate, error) {
	id, err := url.Parse(spiffeID(name))
	if err != nil {
		return tls.Certificate{}, err
	}
	return a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{id}, DNSNames: []string{name + ".prod.svc.cluster.local"},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
}

// sign completes the template and signs it with the authority's key, or with its own where there is no authority yet.
func (a *authority) sign(template *x509.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return tls.Certificate{}, err
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(30*24*time.Hour)
	parent, signer := template, key
	if a.certificate != nil {
		parent, signer = a.certificate, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// pemFiles are the files of one side as the peers read them.
type pemFiles struct{ Cert, Key, Both, CA string }

// write puts leaf, key, both in one (HAProxy) and the CA into dir. A second call replaces them by rename, as a renewal
// would.
func (a *authority) write(dir string, leaf tls.Certificate) (pemFiles, error) {
	key, err := keyPEM(leaf)
	if err != nil {
		return pemFiles{}, err
	}
	cert := svid.EncodeCertificates(leaf.Leaf)
	f := pemFiles{filepath.Join(dir, "leaf.crt"), filepath.Join(dir, "leaf.key"), filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "ca.crt")}
	for path, content := range map[string][]byte{f.Cert: cert, f.Key: key, f.Both: bytes.Join([][]byte{cert, key}, nil), f.CA: svid.EncodeCertificates(a.certificate)} {
		if err := os.WriteFile(path+".new", content, 0o600); err != nil {
			return pemFiles{}, err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return pemFiles{}, err
		}
	}
	return f, nil
}

func keyPEM(leaf tls.Certificate) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
