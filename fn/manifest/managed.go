package manifest

import (
	"cmp"
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/api"
)

// The kind by which cert-manager is asked for a certificate.
const (
	ManagedAPIVersion = "cert-manager.io/v1"
	ManagedKind       = "Certificate"
)

// IsManagedCertificate tells whether an item is a Certificate of cert-manager.
func IsManagedCertificate(item *yaml.RNode) bool {
	return item.GetKind() == ManagedKind && item.GetApiVersion() == ManagedAPIVersion
}

// Source is an object and a key of it that the proxy's volume takes a file from.
type Source struct{ Name, Key string }

// Sources say where a workload's proxy gets leaf, key and bundle from. Name of one that the workload does not use is
// empty.
type Sources struct {
	LeafSecret      string // with LeafFile, and SealedKeyFile or PlainKeyFile
	KeyFile         string // SealedKeyFile or PlainKeyFile
	Identity        Source // Secret with the age identity, for SealedKeyFile
	BundleConfigMap Source // empty: BundleFile is in LeafSecret
}

// Sources of a workload of the mesh.
func (m *Model) Sources(w *Workload) Sources {
	s := Sources{LeafSecret: cmp.Or(w.Overrides.TLSSecret, w.SecretName()), KeyFile: api.PlainKeyFile}
	if m.Spec.UsesCertManager() {
		s.LeafSecret = cmp.Or(w.Overrides.TLSSecret, w.ManagedSecretName())
		bundle := m.Spec.Certificates.CertManager.Bundle
		s.BundleConfigMap = Source{bundle.ConfigMap, bundle.Key}
		return s
	}
	s.BundleConfigMap = Source{api.BundleName, api.BundleFile}
	if w.Overrides.TLSSecret == "" && m.Spec.Sealing.Format == v1alpha1.SealingAge {
		s.KeyFile, s.Identity = api.SealedKeyFile, Source(m.Spec.Sealing.IdentitySecret)
	}
	return s
}

// DNSNames are the names in a workload's certificate: those of the Services that select it, sorted.
func (w *Workload) DNSNames() []string {
	var names []string
	for _, s := range w.Services {
		names = append(names, s.DNSNames()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Issued are the workloads of the mesh whose certificates are ours to ask for: all but those that bring a Secret.
func (m *Model) Issued() []*Workload {
	return slices.DeleteFunc(slices.Clone(m.Workloads), func(w *Workload) bool { return w.Overrides.TLSSecret != "" })
}

// ManagedUsages are the usages of an X.509-SVID in the words of cert-manager. TLS 1.3 needs no key encipherment, not
// even with RSA.
var ManagedUsages = []string{"digital signature", "server auth", "client auth"}
