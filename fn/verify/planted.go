package verify

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// ageIdentities reports age identities in whatever is no Secret; readSecret looks into these, whose values are encoded.
func (c *checker) ageIdentities(item *yaml.RNode) {
	if item.GetKind() != "Secret" && holdsAgeIdentity(item.YNode()) {
		c.report.ErrorIn(item, ageIdentity(item.YNode(), ""), "holds an age identity, which opens every key sealed to it; keep it out of Git, create a Secret in the cluster, and make a new identity")
	}
}

func holdsAgeIdentity(n *yaml.Node) bool {
	return strings.Contains(n.Value, "AGE-SECRET-KEY-1") || slices.ContainsFunc(n.Content, holdsAgeIdentity)
}

// ageIdentity is the path of the first value that holds an age identity; "" where a key does.
func ageIdentity(n *yaml.Node, path string) string {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if found := ageIdentity(n.Content[i+1], report.Below(path, n.Content[i].Value)); found != "" {
				return found
			}
		}
	case yaml.SequenceNode:
		for i, child := range n.Content {
			if found := ageIdentity(child, fmt.Sprintf("%s[%d]", path, i)); found != "" {
				return found
			}
		}
	case yaml.ScalarNode:
		if holdsAgeIdentity(n) {
			return path
		}
	}
	return ""
}

// bundlesAlike reports bundles that trust, or refuse, others than that of the first namespace: a render writes one.
func (c *checker) bundlesAlike(items []*yaml.RNode) {
	first := ""
	for _, item := range items {
		namespace := manifest.NamespaceOf(item)
		if item.GetKind() != "ConfigMap" || c.bundleObjects[namespace] != item {
			continue
		}
		if first == "" {
			first = namespace
		}
		object := report.ObjectOf(item)
		trusted := c.bundles[first].Authorities()
		if have := c.bundles[namespace].Authorities(); len(have) != len(trusted) ||
			slices.ContainsFunc(have, func(ca *x509.Certificate) bool { return !slices.ContainsFunc(trusted, ca.Equal) }) {
			c.report.Error(object, report.Data(api.BundleFile), "holds other authorities than the bundle of namespace %q; run `meshless issue` on the whole package", first)
		}
		if !slices.Equal(c.revoked[namespace], c.revoked[first]) {
			c.report.Error(object, report.Annotation(api.RevokedAnnotation), "is %q, and must be %q as in the bundle of namespace %q; run `meshless issue` on the whole package",
				certs.FormatDigests(c.revoked[namespace]), certs.FormatDigests(c.revoked[first]), first)
		}
	}
}

// identities reports who else asks for the identity of a workload: a second workload, or a Certificate of cert-manager
// that no render wrote and whose Secret that workload does not take, or a volume for which a driver asks for one.
func (c *checker) identities(items []*yaml.RNode) {
	owners := map[string]*pod{}
	for _, p := range c.injected {
		id := p.plan.Workload.SPIFFEID
		if other := owners[id]; other != nil {
			c.report.Error(p.object, p.field(report.Annotation(api.WorkloadAnnotation)+".spiffeID"), "is also the identity of %s; rename one of the two", other.object)
			continue
		}
		owners[id] = p
	}
	for _, p := range c.pods {
		for i, v := range p.spec.Spec.Volumes {
			if v.CSI == nil {
				continue
			}
			for key, value := range v.CSI.VolumeAttributes {
				if owner := askedFor(owners, value); owner != nil && owner != p {
					c.report.Error(p.object, p.field(fmt.Sprintf("spec.volumes[%d].csi.volumeAttributes[%s]", i, key)), "is also the identity of %s, whose the pod is not; take it out", owner.object)
				}
			}
		}
	}
	for _, item := range items {
		if item.GetKind() != manifest.ManagedKind || !strings.HasPrefix(item.GetApiVersion(), "cert-manager.io/") || item.GetAnnotations()[api.IdentityAnnotation] != "" {
			continue
		}
		var certificate struct {
			Spec managedSpec `json:"spec"`
		}
		if err := node.Decode(item, &certificate); err != nil {
			continue // cert-manager refuses it
		}
		object := report.ObjectOf(item)
		for i, uri := range certificate.Spec.URIs {
			owner := owners[uri]
			if owner == nil || owner.namespace() == manifest.EffectiveNamespace(object) && owner.plan.Files.LeafSecret == certificate.Spec.SecretName {
				continue
			}
			c.report.Error(object, fmt.Sprintf("spec.uris[%d]", i), "is also the identity of %s, which does not take its certificate from secret %q: whoever reads that could pass for it", owner.object, certificate.Spec.SecretName)
		}
	}
}

// askedFor is the owner of an identity that a list of URIs, separated by commas, names; nil where it names none.
func askedFor(owners map[string]*pod, uris string) *pod {
	for uri := range strings.SplitSeq(uris, ",") {
		if owner := owners[strings.TrimSpace(uri)]; owner != nil {
			return owner
		}
	}
	return nil
}
