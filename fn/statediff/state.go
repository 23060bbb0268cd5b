// Package statediff compares the state of certificates in manifests with the time, with its own CertificateAuthority,
// with one that several packages share, and with the state that is deployed. Package verify checks single objects.
package statediff

import (
	"crypto/x509"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
)

// State is what manifests say of certificates: who is trusted, who has which, and whose keys are revoked. In the output
// of `kustomize build` there is no CertificateAuthority.
type State struct {
	HasAuthority bool              // the CertificateAuthority is among the items
	Authority    report.Object     // the CertificateAuthority
	Authorities  certs.Authorities // of it, in the order of spec.authorities
	Managed      bool              // cert-manager issues: there are Certificates of ours
	Bundles      map[string]Bundle // by namespace
	Leaves       map[string]Leaf   // by SPIFFE ID
	Revoked      map[string]v1alpha1.RevokedKey
	// by digest; Until is zero where only bundles or mesh maps list the key
}

// Bundle is the ConfigMap of a namespace that says whom its pods trust.
type Bundle struct {
	Object      report.Object
	Authorities []*x509.Certificate
	Revoked     []string // digests
	Additional  []string // fingerprints of those of the authorities that the config added
}

// Leaf is a certificate in a Secret.
type Leaf struct {
	Secret      report.Object
	Certificate *x509.Certificate
}

// Fields of the objects that findings are about.
const (
	authoritiesField = "spec.authorities"
	revokedField     = "spec.revoked"
)

var (
	bundleField = report.Data(api.BundleFile)
	leafField   = report.Data(api.LeafFile)
	listedField = report.Annotation(api.RevokedAnnotation)
)

// ReadState reads the items. What cannot be read is reported by verify.Check or by the next render, except for the
// CertificateAuthority, which verify.Check does not look into.
func ReadState(items []*yaml.RNode, r *report.Report) *State {
	s := &State{Bundles: map[string]Bundle{}, Leaves: map[string]Leaf{}, Revoked: map[string]v1alpha1.RevokedKey{}}
	malformed := func(item *yaml.RNode) bool { return node.CheckItem(item) != nil }
	items = manifest.Flatten(slices.DeleteFunc(slices.Clone(items), malformed))
	found := manifest.FindState(slices.DeleteFunc(items, malformed))
	if found.Authority != nil {
		s.readAuthority(found.Authority, r)
	}
	for _, item := range found.FurtherAuthorities {
		r.ErrorIn(item, "", "is a second CertificateAuthority")
	}
	for _, item := range found.Meshes {
		if mesh, err := meshmap.Parse([]byte(item.GetDataMap()[api.MeshFile])); err == nil {
			s.list(mesh.RevokedKeys)
		}
	}
	for _, item := range found.Bundles {
		s.readBundle(item)
	}
	for id, item := range found.Leaves {
		if leaf, err := svid.ParseCertificates([]byte(node.SecretData(item)[api.LeafFile])); err == nil {
			s.Leaves[id] = Leaf{report.ObjectOf(item), leaf[0]}
		}
	}
	s.Managed = len(found.Certificates) > 0
	return s
}

func (s *State) readAuthority(item *yaml.RNode, r *report.Report) {
	object := report.ObjectOf(item)
	state, err := v1alpha1.ParseCertificateAuthority(item)
	if err != nil {
		r.Error(object, "", "%v", err)
		return
	}
	td, err := spiffeid.TrustDomainFromString(state.Spec.TrustDomain)
	if err != nil {
		r.Error(object, "spec.trustDomain", "%v", err)
		return
	}
	if s.Authorities, err = certs.ParseAuthorities(state, td); err != nil {
		r.Error(object, "", "%v", err)
		return
	}
	s.HasAuthority, s.Authority = true, object
	for _, key := range state.Spec.Revoked {
		s.Revoked[key.Key] = key
	}
}

func (s *State) readBundle(item *yaml.RNode) {
	revoked := certs.ParseDigests(item.GetAnnotations()[api.RevokedAnnotation])
	s.list(revoked)
	if certificates, err := svid.ParseCertificates([]byte(item.GetDataMap()[api.BundleFile])); err == nil {
		s.Bundles[manifest.NamespaceOf(item)] = Bundle{Object: report.ObjectOf(item), Authorities: certificates, Revoked: revoked,
			Additional: certs.ParseDigests(item.GetAnnotations()[api.AdditionalAnnotation])}
	}
}

// list adds keys that a bundle or a mesh map lists as revoked.
func (s *State) list(keys []string) {
	for _, key := range keys {
		if _, known := s.Revoked[key]; !known {
			s.Revoked[key] = v1alpha1.RevokedKey{Key: key}
		}
	}
}

// With is the state with the CertificateAuthority of another.
func (s *State) With(authority *State) *State {
	out := *s
	out.HasAuthority, out.Authority, out.Authorities, out.Revoked = authority.HasAuthority, authority.Authority, authority.Authorities, maps.Clone(s.Revoked)
	maps.Copy(out.Revoked, authority.Revoked)
	return &out
}

// Empty tells whether there is nothing of a mesh.
func (s *State) Empty() bool { return !s.HasAuthority && len(s.Bundles) == 0 && len(s.Leaves) == 0 }

// main is the object that stands for the whole state.
func (s *State) main() report.Object {
	if s.HasAuthority {
		return s.Authority
	}
	for _, bundle := range sorted(s.Bundles) {
		return bundle.Object
	}
	for _, leaf := range sorted(s.Leaves) {
		return leaf.Secret
	}
	return report.Object{}
}

// revokedIn is where the state says which keys are revoked.
func (s *State) revokedIn() (report.Object, string) {
	if s.HasAuthority {
		return s.Authority, revokedField
	}
	return s.main(), listedField
}

// stillRevoked tells whether a key must be refused at now. One whose end is not known must.
func (s *State) stillRevoked(digest string, now time.Time) bool {
	key, ok := s.Revoked[digest]
	return ok && (key.Until.IsZero() || !now.After(key.Until.Time))
}

// signer is who signed a leaf, of all that the state trusts; nil when nobody did.
func (s *State) signer(leaf *x509.Certificate) *x509.Certificate {
	for _, bundle := range sorted(s.Bundles) {
		if ca := signerIn(bundle.Authorities, leaf); ca != nil {
			return ca
		}
	}
	return signerIn(s.Authorities.Certificates(), leaf)
}

func signerIn(trusted []*x509.Certificate, leaf *x509.Certificate) *x509.Certificate {
	for _, ca := range trusted {
		if string(ca.SubjectKeyId) == string(leaf.AuthorityKeyId) && leaf.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}

// holds tells whether a certificate is among others.
func holds(certificates []*x509.Certificate, c *x509.Certificate) bool {
	return slices.ContainsFunc(certificates, c.Equal)
}

// shareOne tells whether two lists have a certificate in common.
func shareOne(a, b []*x509.Certificate) bool {
	return slices.ContainsFunc(a, func(c *x509.Certificate) bool { return holds(b, c) })
}

// sorted are the entries of a map in the order of its keys.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}
