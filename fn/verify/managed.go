package verify

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// managedSpec is what matters of the spec of a Certificate (cert-manager.io/v1, CertificateSpec).
type managedSpec struct {
	SecretName string   `json:"secretName"`
	URIs       []string `json:"uris"`
	IsCA       bool     `json:"isCA"`
	Usages     []string `json:"usages"`
	PrivateKey struct {
		Encoding       string `json:"encoding"`
		RotationPolicy string `json:"rotationPolicy"`
	} `json:"privateKey"`
	IssuerRef issuerRef `json:"issuerRef"`
}

type issuerRef struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`
	Group string `json:"group"`
}

// trustSource is where a proxy takes its bundle from.
type trustSource struct {
	object report.Object // the workload
	source string
}

// readCertificate reads a Certificate that a render wrote.
func (c *checker) readCertificate(item *yaml.RNode) {
	identity := item.GetAnnotations()[api.IdentityAnnotation]
	if identity == "" || !manifest.IsManagedCertificate(item) {
		return
	}
	object := report.ObjectOf(item)
	var certificate struct {
		Spec managedSpec `json:"spec"`
	}
	if err := node.Decode(item, &certificate); err != nil {
		c.report.Error(object, "spec", "cannot be read")
		return
	}
	spec := certificate.Spec
	c.shaped(item, shape{apiVersion: manifest.ManagedAPIVersion, name: certificateName(identity), fields: []string{"spec"}})
	if n := node.Get(item.YNode(), "spec"); n != nil {
		if v, err := node.Values(n); err == nil {
			whole, _ := v.(map[string]any)
			c.managedSpecs = append(c.managedSpecs, managedCertificate{object, identity, whole})
		}
	}
	wrong := func(field, format string, args ...any) {
		c.report.Error(object, "spec."+field, format, args...)
	}
	if !slices.Equal(spec.URIs, []string{identity}) {
		wrong("uris", "must hold %s and nothing else, or no peer accepts the certificate", identity)
	}
	if spec.IsCA {
		wrong("isCA", "must be false: whoever has the key could mint any identity")
	}
	if usages := slices.Sorted(slices.Values(spec.Usages)); !slices.Equal(usages, slices.Sorted(slices.Values(manifest.ManagedUsages))) {
		wrong("usages", "must be %s, those of an X.509-SVID", strings.Join(manifest.ManagedUsages, ", "))
	}
	if spec.PrivateKey.Encoding != "PKCS8" || spec.PrivateKey.RotationPolicy != "Always" {
		wrong("privateKey", "must have encoding PKCS8, which the proxy reads, and rotationPolicy Always")
	}
	if c.issuer == nil {
		c.issuer = &spec.IssuerRef
	} else if *c.issuer != spec.IssuerRef { // a pod that has no other bundle would trust whatever CA its issuer names
		wrong("issuerRef", "names another issuer (%s/%s) than the mesh's other Certificates (%s/%s); render the whole package again", spec.IssuerRef.Kind, spec.IssuerRef.Name, c.issuer.Kind, c.issuer.Name)
	}
	name := namespacedName(object, spec.SecretName)
	if other := c.managed[name]; other != nil {
		wrong("secretName", "is %q, which %s writes as well", spec.SecretName, other.Secret)
		return
	}
	leaf := Leaf{Secret: object, Identity: identity, IssuedBy: spec.IssuerRef.Kind + "/" + spec.IssuerRef.Name, written: item.GetAnnotations()[api.WrittenAnnotation]}
	c.managed[name] = &leaf
	c.leaves = append(c.leaves, leaf)
}

// managedBundle checks whom a proxy trusts whose leaf cert-manager issues: ca.crt of its own Secret, or a ConfigMap,
// and all proxies in the same way.
func (c *checker) managedBundle(p *pod) {
	if len(c.bundles) > 0 {
		c.report.Error(p.object, p.sources(), "takes leaf and %s past the bundle of this mesh (configmap %s), which is among the manifests: one issuer serves the whole mesh; render the whole package again", api.BundleFile, api.BundleName(p.plan.Package))
		return
	}
	source := "its own Secret"
	if bundle := p.plan.Files.Bundle; bundle.Name == api.BundleName(p.plan.Package) {
		c.report.Error(p.object, p.sources(), "must take %s from the Secret that holds its leaf, or from the ConfigMap of spec.certificates.certManager.bundle", api.BundleFile)
		return
	} else if bundle.Name != "" {
		source = "configmap/" + bundle.Name
	}
	if c.trust.source == "" {
		c.trust = trustSource{p.object, source}
	} else if c.trust.source != source {
		c.report.Error(p.object, p.sources(), "takes %s from %s, and %s takes it from %s: they trust different authorities; render the whole package again", api.BundleFile, source, c.trust.object, c.trust.source)
	}
}

// ownSource checks a workload that brings its own Secret. What is not among the manifests cannot be judged; the proxy
// does it when it starts.
func (c *checker) ownSource(p *pod, own string) {
	secret := p.plan.Files.LeafSecret
	if own != secret || p.plan.Files.KeyFile != api.PlainKeyFile {
		c.report.Error(p.object, p.sources(), "mounts secret %q with %s: neither a Certificate of cert-manager in the input writes it, nor does the annotation %s name it; the annotation takes the final name, after a namePrefix, and the package is to be rendered again",
			secret, api.PlainKeyFile, api.TLSSecretAnnotation)
		return
	}
	if len(c.bundles) > 0 {
		c.ownBundle(p)
	} else {
		c.managedBundle(p)
	}
	of := report.Object{APIVersion: "v1", Kind: "Secret", Namespace: p.object.Namespace, Name: secret}
	c.leaves = append(c.leaves, Leaf{Secret: of, Identity: p.plan.Workload.SPIFFEID, IssuedBy: "the user"})
	if item := c.given[namespacedName(p.object, secret)]; item != nil {
		c.ownSecret(of, item, p)
	}
}

// ownSecret checks a user's Secret as the proxy would. Values that somebody opens later (SOPS) are taken as they are.
func (c *checker) ownSecret(of report.Object, item *yaml.RNode, p *pod) {
	keys := []string{api.LeafFile, api.PlainKeyFile}
	if p.plan.Files.Bundle.Name == "" {
		keys = append(keys, api.BundleFile)
	}
	for _, key := range keys {
		if node.Get(item.YNode(), "data", key) == nil && node.Get(item.YNode(), "stringData", key) == nil {
			c.report.Error(of, report.Data(key), "is missing, and %s takes it from there", p.object)
		}
	}
	data := node.SecretData(item)
	chain, err := svid.ParseCertificates([]byte(data[api.LeafFile]))
	if !strings.Contains(data[api.LeafFile], "-----BEGIN") {
		return
	}
	if err != nil {
		c.report.Error(of, report.Data(api.LeafFile), "%v; want the leaf and, if there are any, the intermediates that lead to its authority", err)
		return
	}
	if err := c.verifyOwn(chain, manifest.EffectiveNamespace(p.object), p.plan.Workload.SPIFFEID); err != nil {
		c.report.Error(of, report.Data(api.LeafFile), "%v", err)
	}
	if text := data[api.PlainKeyFile]; strings.Contains(text, "-----BEGIN") {
		key, err := svid.ParseKey([]byte(text))
		if err == nil && !svid.KeyFits(chain[0], key) {
			err = errors.New("is the key of another certificate")
		}
		if err != nil {
			c.report.Error(of, report.Data(api.PlainKeyFile), "%v", err)
		}
	}
}

// verifyOwn verifies a chain for both sides of TLS, under the bundle of its namespace if there is one.
func (c *checker) verifyOwn(chain []*x509.Certificate, namespace, identity string) error {
	if uris := chain[0].URIs; len(uris) != 1 || uris[0].String() != identity {
		return fmt.Errorf("names %v, and must have one URI name, the workload's identity %s", uris, identity)
	}
	if err := svid.CheckKey(chain[0]); err != nil {
		return err
	}
	bundle := c.bundles[namespace]
	if bundle == nil {
		return nil
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := bundle.Verify(chain, usage, c.options.Now); err != nil {
			return fmt.Errorf("%w; are its authorities in spec.certificates.ca.additional?", err)
		}
	}
	return nil
}

// namespacedName names what stands beside an object, in the same namespace.
func namespacedName(beside report.Object, name string) string {
	return manifest.EffectiveNamespace(beside) + "/" + name
}
