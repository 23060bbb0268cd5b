package manifest

import (
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"
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
