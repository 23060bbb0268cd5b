package pipeline

import (
	"bytes"
	"path"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
)

// writeCertificate ensures the Certificate of a workload and returns it. It is derived, so its spec is ours as a whole;
// one that says the same keeps its bytes.
func (o *output) writeCertificate(w *manifest.Workload) *yaml.RNode {
	item := o.model.State.Certificates[w.ID.String()]
	if item == nil {
		item = o.add(manifest.ManagedAPIVersion, manifest.ManagedKind, path.Join(w.Namespace, strings.TrimPrefix(w.SecretName(), api.NamePrefix)+".yaml"))
	}
	o.setName(item, w.SecretName(), w.Namespace)
	annotate(item, map[string]string{api.IdentityAnnotation: w.ID.String()})
	if spec := certificateSpec(o.model, w); !sameContent(node.Get(item.YNode(), "spec"), spec) {
		node.Set(item.YNode(), "spec", spec)
	}
	return item
}

// certificateSpec asks for an X.509-SVID (cert-manager.io/v1, CertificateSpec). There is no common name: an X.509-SVID
// needs no subject, and a longer name than 64 characters is refused there. A new key at every renewal, in the form that
// the proxy reads.
func certificateSpec(m *manifest.Model, w *manifest.Workload) *yaml.Node {
	certificates := m.Spec.Certificates
	ref := certificates.CertManager.IssuerRef
	spec := node.Object(
		"secretName", w.ManagedSecretName(),
		"issuerRef", node.Object("name", ref.Name, "kind", ref.Kind, "group", ref.Group),
		"isCA", false,
		"uris", []string{w.ID.String()},
	)
	if names := w.DNSNames(); len(names) > 0 {
		node.Set(spec, "dnsNames", node.Value(names))
	}
	rest := node.Object(
		"usages", manifest.ManagedUsages,
		"privateKey", privateKey(certificates.KeyAlgorithm),
		"duration", certificates.Validity.Duration.String(),
		"renewBefore", certificates.RenewBefore.Duration.String(),
	)
	spec.Content = append(spec.Content, rest.Content...)
	return spec
}

// privateKey is an algorithm of v1alpha1.KeyAlgorithms in the words of cert-manager, which gives Ed25519 no size.
func privateKey(algorithm string) *yaml.Node {
	family, size, sized := strings.Cut(algorithm, "-")
	n := node.Object("algorithm", family)
	if bits, err := strconv.Atoi(strings.TrimPrefix(size, "P")); sized && err == nil {
		node.Set(n, "size", node.Value(bits))
	}
	n.Content = append(n.Content, node.Object("encoding", "PKCS8", "rotationPolicy", "Always").Content...)
	return n
}

// sameContent tells whether two nodes say the same, whatever their style.
func sameContent(a, b *yaml.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	left, err1 := yaml.NewRNode(a).MarshalJSON()
	right, err2 := yaml.NewRNode(b).MarshalJSON()
	return err1 == nil && err2 == nil && bytes.Equal(left, right)
}
