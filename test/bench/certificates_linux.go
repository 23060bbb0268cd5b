package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

const serverHost = "server.prod.svc.cluster.local" // the server's DNS SAN, by which the peers verify it

// authority is the CA of one run. Nothing of it outlives the run.
type authority struct{ *testca.CA }

func newAuthority() authority { return authority{testca.New(proxytest.Must, proxytest.TrustDomain)} }

// issue makes the leaf of a workload: one URI SAN for us, one DNS SAN for the peers.
func (a authority) issue(name string) tls.Certificate {
	return a.Issue(proxytest.Must, proxytest.ID(name), func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames = name, []string{name + ".prod.svc.cluster.local"}
	})
}

// pemFiles are the files of one side as the peers read them.
type pemFiles struct{ Cert, Key, Both, CA string }

// write puts leaf, key, both in one (HAProxy) and the CA into dir. A second call replaces them by rename, as a renewal
// would.
func (a authority) write(dir string, leaf tls.Certificate) (pemFiles, error) {
	cert, key := svid.EncodeCertificates(leaf.Leaf), testca.KeyPEM(proxytest.Must, leaf)
	f := pemFiles{filepath.Join(dir, "leaf.crt"), filepath.Join(dir, "leaf.key"), filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "ca.crt")}
	for path, content := range map[string][]byte{f.Cert: cert, f.Key: key, f.Both: bytes.Join([][]byte{cert, key}, nil), f.CA: a.PEM()} {
		if err := os.WriteFile(path+".new", content, 0o600); err != nil {
			return pemFiles{}, err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return pemFiles{}, err
		}
	}
	return f, nil
}
