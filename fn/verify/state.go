package verify

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
)

// readBundle reads the two ConfigMaps of a namespace.
func (c *checker) readBundle(item *yaml.RNode) {
	identity := item.GetAnnotations()[api.IdentityAnnotation]
	if item.GetKind() != "ConfigMap" || identity == "" {
		return
	}
	if manifest.IsHookCopy(item) {
		c.hookCopies = append(c.hookCopies, item)
		return
	}
	object, data := report.ObjectOf(item), item.GetDataMap()
	if text, ok := data[api.MeshFile]; ok {
		mesh, err := meshmap.Parse([]byte(text))
		switch {
		case err != nil && item.GetAnnotations()[api.PackageAnnotation] == "":
			c.report.Error(object, report.Data(api.MeshFile), "is no mesh map of this edition of meshless (it lacks the annotation %s): %v. Render the package again", api.PackageAnnotation, err)
			return
		case err != nil:
			c.report.Error(object, report.Data(api.MeshFile), "%v", err)
			return
		}
		c.shaped(item, shape{apiVersion: "v1", name: api.MeshName(mesh.Package), fields: []string{"data"}, data: []string{api.MeshFile}})
		c.ofPackage(item, mesh.Package)
		if namespace := manifest.EffectiveNamespace(object); mesh.Namespace != namespace {
			c.report.Error(object, report.Data(api.MeshFile), "is the map of namespace %q, and lies in %q; render after what moves it", mesh.Namespace, namespace)
		}
		if want := "spiffe://" + mesh.TrustDomain; identity != want {
			c.report.Error(object, report.Annotation(api.IdentityAnnotation), "is %q, and the map is of %q", identity, want)
		}
		c.meshes[manifest.EffectiveNamespace(object)] = mesh
		c.meshObjects[manifest.EffectiveNamespace(object)] = item
		c.meshMaps = append(c.meshMaps, meshMap{object, mesh})
	}
	if text, ok := data[api.BundleFile]; ok {
		bundle, err := parseBundle(identity, text)
		if err != nil {
			c.report.Error(object, report.Data(api.BundleFile), "%v", err)
			return
		}
		c.shaped(item, shape{apiVersion: "v1", name: bundleName(item), fields: []string{"data"}, data: []string{api.BundleFile}})
		namespace := manifest.EffectiveNamespace(object)
		c.bundleObjects[namespace] = item
		c.bundles[namespace], c.revoked[namespace] = bundle, revokedKeys(item)
		if !c.texts[text] { // most often all are the same, and a leaf is judged once
			c.texts[text] = true
			c.distinct = append(c.distinct, namespace)
		}
	}
}

// bundleName is what a render calls a bundle; state that no render of this edition has seen has no package's name.
func bundleName(item *yaml.RNode) string {
	if pkg := item.GetAnnotations()[api.PackageAnnotation]; pkg != "" {
		return api.BundleName(pkg)
	}
	return strings.TrimSuffix(api.BundleName(""), "-")
}

// severalPackages refuses the manifests of several packages at once: each has maps of its own, so none of them could be
// judged.
func (c *checker) severalPackages() bool {
	for _, m := range c.meshMaps {
		if first := c.meshMaps[0]; m.mesh.Package != first.mesh.Package {
			c.report.Error(m.object, report.Data(api.MeshFile), "is of package %q, and %s of package %q: verify each package on its own. If they are one, render the whole of it again", m.mesh.Package, first.object, first.mesh.Package)
			return true
		}
	}
	return false
}

// ofPackage reports an object that says another package.
func (c *checker) ofPackage(item *yaml.RNode, pkg string) {
	if have := item.GetAnnotations()[api.PackageAnnotation]; have != pkg {
		c.report.ErrorIn(item, report.Annotation(api.PackageAnnotation), "is %q, and must be %q as in the mesh map; render the whole package again", have, pkg)
	}
}

// revokedKeys are the digests that a bundle lists, sorted; never nil.
func revokedKeys(bundle *yaml.RNode) []string {
	keys := append([]string{}, certs.ParseDigests(bundle.GetAnnotations()[api.RevokedAnnotation])...)
	slices.Sort(keys)
	return keys
}

// readSecret reads a leaf, and looks into every Secret for keys in the clear.
func (c *checker) readSecret(item *yaml.RNode) {
	if item.GetKind() != "Secret" || item.GetApiVersion() != "v1" {
		return
	}
	object := report.ObjectOf(item)
	data := node.SecretData(item)
	identity := item.GetAnnotations()[api.IdentityAnnotation]
	for _, key := range slices.Sorted(maps.Keys(data)) {
		c.refuseClear(object, key, data[key], identity != "")
	}
	if identity == "" {
		return
	}
	if c.refuseEncryptedLeaf(object, item) {
		return
	}
	certificates, err := svid.ParseCertificates([]byte(data[api.LeafFile]))
	if err != nil || len(certificates) != 1 {
		c.report.Error(object, report.Data(api.LeafFile), "does not hold exactly one certificate")
		return
	}
	record := certs.ParseRecord(item.GetAnnotations())
	leaf := Leaf{Secret: object, Identity: identity, Certificate: certificates[0], Due: record.Due(certificates[0], c.options.RenewBefore), written: item.GetAnnotations()[api.WrittenAnnotation]}
	if record.KeyDigest != svid.KeyDigest(leaf.Certificate) {
		c.report.Error(object, report.Annotation(api.PublicKeyAnnotation), "is not the digest of the certificate's key")
	}
	leaf.keyFile = c.sealedKey(object, item, data)
	if len(c.bundles) == 0 {
		c.report.Error(object, "", "there is no bundle (configmap %s) in the input to judge its certificate by", api.BundleName("<package>"))
	}
	// sops: what SOPS needs to open the key
	c.shaped(item, shape{apiVersion: "v1", name: object.Name, fields: []string{"type", "data", "stringData", seal.SOPSField}, data: []string{api.LeafFile, leaf.keyFile}, kind: "Opaque"})
	c.record(item, record, leaf)
	c.verifyLeaf(&leaf)
	c.secrets[namespacedName(object, object.Name)] = &leaf
	c.leaves = append(c.leaves, leaf)
}

// refuseClear reports private keys that are not sealed. A Secret of the platform may hold a TLS key; an age identity
// belongs in no manifest, and no key in the clear into a Secret of ours.
func (c *checker) refuseClear(object report.Object, key, text string, ours bool) {
	switch {
	case strings.Contains(text, "AGE-SECRET-KEY-"):
		c.report.Error(object, report.Data(key), "holds an age identity, which opens every key sealed to it; keep it out of Git, create the Secret in the cluster, and make a new identity")
	case ours && strings.Contains(text, "PRIVATE KEY"):
		c.report.Error(object, report.Data(key), "holds a private key in the clear; consider it leaked: delete the Secret, have it issued anew, and revoke the key (`meshless revoke DIR DIGEST`, with its annotation meshless.dev/public-key)")
	}
}

// verifyLeaf checks a leaf under every bundle: a peer may run in any namespace.
func (c *checker) verifyLeaf(leaf *Leaf) {
	for _, namespace := range c.distinct {
		for _, ca := range c.bundles[namespace].Authorities() {
			if string(ca.SubjectKeyId) == string(leaf.Certificate.AuthorityKeyId) {
				leaf.Issuer = ca
			}
		}
	}
	for _, namespace := range c.distinct {
		id, err := c.bundles[namespace].VerifyLeaf(leaf.Certificate, c.options.Now)
		switch {
		case err != nil:
			c.report.Error(leaf.Secret, report.Data(api.LeafFile), "under the bundle of namespace %q: %v", namespace, err)
			return
		case id.String() != leaf.Identity:
			c.report.Error(leaf.Secret, report.Data(api.LeafFile), "is the certificate of %s, and the Secret is for %s", id, leaf.Identity)
			return
		}
	}
	if c.options.EveryWorkload && c.options.Now.After(leaf.Due) {
		c.report.Warn(leaf.Secret, report.Data(api.LeafFile), "is due for renewal since %s, and expires at %s; run `meshless issue` and commit the result",
			leaf.Due.UTC().Format(time.RFC3339), leaf.Certificate.NotAfter.UTC().Format(time.RFC3339))
	}
}

func parseBundle(identity, text string) (*svid.Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(identity)
	if err != nil {
		return nil, err
	}
	certificates, err := svid.ParseCertificates([]byte(text))
	if err != nil {
		return nil, err
	}
	return svid.NewBundle(td, certificates, nil)
}
