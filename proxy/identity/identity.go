// Package identity turns a generation of files into what TLS needs: the key opened in memory, the leaf, the trust
// bundle and the TLS configurations made of them. A generation that does not fit together is refused whole. Keys never
// leave this package, and no error of it quotes the content of a file.
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/files"
)

// Snapshot is one good generation. It is immutable; connections keep the one that they began with, until they are
// verified again.
type Snapshot struct {
	Number   uint64 // counts good generations from 1
	ID       spiffeid.ID
	Leaf     *x509.Certificate
	Bundle   *svid.Bundle // of our own trust domain
	Trust    *svid.Set    // the same, and those of federated trust domains
	Mesh     *meshmap.Map
	Workload *podplan.Workload

	now         func() time.Time
	verified    *svid.Memo // of Trust: what one generation has accepted says nothing in the next
	certificate tls.Certificate
	server      *tls.Config // with our ALPN
	serverPlain *tls.Config // for clients that do not offer it
	client      *tls.Config
}

// New checks a generation at the time that now tells, and keeps now for the handshakes to come. It checks that the key
// opens and is the leaf's, that the leaf is this workload's, and that peers with the same bundle will accept it on both
// sides of TLS.
func New(g *files.Generation, now func() time.Time) (*Snapshot, error) {
	chain, err := svid.ParseCertificates(g.LeafPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", api.LeafFile, err)
	}
	key, err := openKey(g)
	if err != nil {
		return nil, err
	}
	if !svid.KeyFits(chain[0], key) {
		return nil, fmt.Errorf("the key does not belong to the leaf in %s: both come from one render, was one of them changed by hand?", api.LeafFile)
	}
	s := &Snapshot{Leaf: chain[0], Mesh: g.Mesh, Workload: g.Workload, now: now}
	if s.Bundle, err = bundle(g); err != nil {
		return nil, err
	}
	if s.Trust, err = svid.NewSet(s.Bundle, g.Mesh.Federation); err != nil {
		return nil, fmt.Errorf("%s: %w", api.MeshFile, err)
	}
	s.verified = svid.NewMemo(s.Trust)
	if err := s.verifyLeaf(chain); err != nil {
		return nil, err
	}
	s.certificate = tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		s.certificate.Certificate = append(s.certificate.Certificate, c.Raw)
	}
	s.buildTLS()
	return s, nil
}

// bundle combines the authorities of ca.crt with the trust domain and the revoked keys of mesh.yaml.
func bundle(g *files.Generation) (*svid.Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(g.Mesh.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("%s: trustDomain: %w", api.MeshFile, err)
	}
	authorities, err := svid.ParseCertificates(g.BundlePEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", api.BundleFile, err)
	}
	b, err := svid.NewBundle(td, authorities, g.Mesh.RevokedKeys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", api.BundleFile, err)
	}
	return b, nil
}

// verifyLeaf verifies our own leaf as a peer would. Sealing does not authenticate (age has no associated data): a
// writer of Git could swap two workloads' Secrets, and this check notices it.
func (s *Snapshot) verifyLeaf(chain []*x509.Certificate) error {
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		id, err := s.Bundle.Verify(chain, usage, s.now())
		if err != nil {
			return fmt.Errorf("%s does not verify under %s: %w. Are the Secret and the ConfigMap %s of different commits? Sync both; `meshless verify` tells whether Git is right",
				api.LeafFile, api.BundleFile, err, api.BundleName(s.Mesh.Package))
		}
		s.ID = id
	}
	if s.ID.String() != s.Workload.SPIFFEID {
		return fmt.Errorf("%s is the certificate of %s, but this pod is %s: is the Secret of another workload mounted?",
			api.LeafFile, s.ID, s.Workload.SPIFFEID)
	}
	return nil
}

// VerifyPeer verifies a chain that a peer presented, at the present time. The identity may be of a federated trust
// domain: the caller decides what it may. Every error is an *svid.Error.
func (s *Snapshot) VerifyPeer(chain []*x509.Certificate, usage x509.ExtKeyUsage) (spiffeid.ID, error) {
	return s.verified.Verify(chain, usage, s.now())
}

// Remember keeps that the chain of a peer is verified, once its handshake is done. It returns the part of the chain
// that counts (svid.Memo).
func (s *Snapshot) Remember(chain []*x509.Certificate, usage x509.ExtKeyUsage) []*x509.Certificate {
	return s.verified.Remember(chain, usage, s.now())
}

// Usable tells whether peers would accept the leaf now; the error says until when it was good.
func (s *Snapshot) Usable() error {
	if now := s.now(); now.After(s.Leaf.NotAfter) {
		return fmt.Errorf("the certificate of %s expired at %s: was it renewed in Git and synced?", s.ID, s.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// PortMode says what becomes of a connection to a port of the app.
func (s *Snapshot) PortMode(port uint16) podplan.PortMode {
	return s.Workload.PortMode(port, s.Mesh.Inbound.Mode)
}
