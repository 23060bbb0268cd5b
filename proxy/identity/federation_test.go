package identity_test

import (
	"crypto/x509"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// TestFederationOfASnapshot: peers of a federated trust domain verify, our own leaf is never one of theirs, and clients
// learn of their authorities.
func TestFederationOfASnapshot(t *testing.T) {
	w, other := good(t), testca.New(t, "other.example")
	w.Mesh.Federation = []meshmap.Federation{{TrustDomain: "other.example", Bundle: string(other.PEM())}}
	s, err := load(t, w.Sealed(t))
	if err != nil {
		t.Fatal(err)
	}
	const peer = "spiffe://other.example/ns/prod/deployment/web"
	if id, err := s.VerifyPeer([]*x509.Certificate{other.Issue(t, peer).Leaf}, x509.ExtKeyUsageClientAuth); err != nil || id.String() != peer {
		t.Errorf("a federated peer: %s, %v", id, err)
	}
	if id, err := s.VerifyPeer([]*x509.Certificate{other.Issue(t, proxytest.ID("web")).Leaf}, x509.ExtKeyUsageClientAuth); err == nil {
		t.Errorf("their authority makes %s", id)
	}
	both := x509.NewCertPool()
	both.AddCert(w.CA.Certificate)
	both.AddCert(other.Certificate)
	if !s.ServerConfig(nil).ClientCAs.Equal(both) {
		t.Error("clients learn of other authorities than those of both trust domains")
	}

	foreign := w
	foreign.Leaf, foreign.Workload = other.Issue(t, peer), podplan.Workload{SPIFFEID: peer}
	if _, err := load(t, foreign.Sealed(t)); err == nil || !strings.Contains(err.Error(), "trust domain") {
		t.Errorf("a leaf of a federated trust domain as our own: %v", err)
	}
	for name, bundle := range map[string][]byte{"our own authority": w.CA.PEM(), "a leaf": []byte(strings.Repeat("x", 9)), "an authority that names a third": testca.New(t, "third.example").PEM()} {
		bad := w
		bad.Mesh = proxytest.Mesh(func(m *meshmap.Map) {
			m.Federation = []meshmap.Federation{{TrustDomain: "other.example", Bundle: string(bundle)}}
		})
		if _, err := load(t, bad.Sealed(t)); err == nil || !strings.Contains(err.Error(), api.MeshFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
