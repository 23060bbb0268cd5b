// Package verify judges rendered manifests from outside: it sees what will be applied and nothing of how it was made. The last step of every render, and the
// command for CI and GitOps, where kustomize fails open.
package verify

import (
	"crypto/x509"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/model"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/contract"
	"github.com/meshless-dev/meshless/internal/svid"
)

// Leaf is one workload's certificate as it stands in the manifests.
type Leaf struct {
	Secret      report.Object
	Identity    string
	Certificate *x509.Certificate
	Issuer      *x509.Certificate // nil when no bundle holds it
}

// Options say what is judged.
type Options struct {
	Now           time.Time
	EveryWorkload bool // a workload that is not injected and does not say so (meshless.dev/inject: disabled) is an error
}

// Check reports what is wrong with the items and returns the leaves that it found, in the order of the items.
func Check(items []*yaml.RNode, o Options, r *report.Report) []Leaf {
	c := &checker{options: o, report: r, secrets: map[string]*Leaf{}, bundles: map[string]*svid.Bundle{}, meshes: map[string]bool{}}
	for _, item := range items {
		if yaml.IsMissingOrNull(item) || item.YNode().Kind != yaml.MappingNode {
			r.Error(report.Object{}, "", "the input holds something that is no object")
			return nil
		}
		if err := node.CheckAliases(item.YNode()); err != nil {
			r.Error(report.ObjectOf(item), "", "%v", err)
			return nil
		}
	}
	for _, item := range items {
		c.readBundle(item)
	}
	for _, item := range items {
		c.readSecret(item)
	}
	for _, item := range items {
		if path, ok := model.TemplatePath(item); ok && item.GetAnnotations()[model.LocalConfigAnnotation] != "true" {
			c.workload(item, path)
		}
	}
	return c.leaves
}

// Rendered is Check as the last step of a render, which knows best what is in the mesh.
func Rendered(items []*yaml.RNode, now time.Time, r *report.Report) {
	Check(items, Options{Now: now}, r)
}

type checker struct {
	options Options
	report  *report.Report
	leaves  []Leaf
	secrets map[string]*Leaf        // by "<namespace>/<name>"
	bundles map[string]*svid.Bundle // by namespace
	meshes  map[string]bool         // namespaces with a mesh map
}

// readBundle reads the two ConfigMaps of a namespace.
func (c *checker) readBundle(item *yaml.RNode) {
	identity := item.GetAnnotations()[contract.IdentityAnnotation]
	if item.GetKind() != "ConfigMap" || identity == "" {
		return
	}
	object, data := report.ObjectOf(item), item.GetDataMap()
	if text, ok := data[contract.MeshFile]; ok {
		if _, err := contract.ParseMesh([]byte(text)); err != nil {
			c.report.Error(object, "data["+contract.MeshFile+"]", "%v", err)
		}
		c.meshes[item.GetNamespace()] = true
	}
	if text, ok := data[contract.BundleFile]; ok {
		bundle, err := parseBundle(identity, text)
		if err != nil {
			c.report.Error(object, "data["+contract.BundleFile+"]", "%v", err)
			return
		}
		c.bundles[item.GetNamespace()] = bundle
	}
}

// readSecret reads a leaf, and looks into every Secret for keys in the clear.
func (c *checker) readSecret(item *yaml.RNode) {
	if item.GetKind() != "Secret" || item.GetApiVersion() != "v1" {
		return
	}
	object := report.ObjectOf(item)
	data := decodeData(item)
	identity := item.GetAnnotations()[contract.IdentityAnnotation]
	for _, key := range slices.Sorted(maps.Keys(data)) {
		c.refuseClear(object, key, data[key], identity != "")
	}
	if identity == "" {
		return
	}
	certificates, err := svid.ParseCertificates([]byte(data[contract.LeafFile]))
	if err != nil || len(certificates) != 1 {
		c.report.Error(object, "data["+contract.LeafFile+"]", "does not hold exactly one certificate")
		return
	}
	leaf := Leaf{Secret: object, Identity: identity, Certificate: certificates[0]}
	if item.GetAnnotations()[contract.PublicKeyAnnotation] != svid.KeyDigest(leaf.Certificate) {
		c.report.Error(object, "metadata.annotations["+contract.PublicKeyAnnotation+"]", "is not the digest of the certificate's key")
	}
	c.judge(&leaf)
	c.secrets[object.Namespace+"/"+object.Name] = &leaf
	c.leaves = append(c.leaves, leaf)
}

// refuseClear reports private keys that are not sealed. A Secret of the platform may hold a TLS key; an age identity belongs in no manifest, and no key in the clear into
// a Secret of ours.
func (c *checker) refuseClear(object report.Object, key, text string, ours bool) {
	switch {
	case strings.Contains(text, "AGE-SECRET-KEY-"):
		c.report.Error(object, "data["+key+"]", "holds an age identity, which opens every key sealed to it; keep it out of Git, create the Secret in the cluster, and make a new identity")
	case ours && strings.Contains(text, "PRIVATE KEY"):
		c.report.Error(object, "data["+key+"]", "holds a private key in the clear; consider it leaked, delete the Secret and have it issued anew")
	}
}

// judge verifies a leaf under every bundle: a peer may run in any namespace.
func (c *checker) judge(leaf *Leaf) {
	for _, namespace := range slices.Sorted(maps.Keys(c.bundles)) {
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			id, err := c.bundles[namespace].Verify([]*x509.Certificate{leaf.Certificate}, usage, c.options.Now)
			switch {
			case err != nil:
				c.report.Error(leaf.Secret, "data["+contract.LeafFile+"]", "under the bundle of namespace %q: %v", namespace, err)
				return
			case id.String() != leaf.Identity:
				c.report.Error(leaf.Secret, "data["+contract.LeafFile+"]", "is the certificate of %s, and the Secret is for %s", id, leaf.Identity)
				return
			}
		}
		for _, ca := range c.bundles[namespace].Authorities() {
			if string(ca.SubjectKeyId) == string(leaf.Certificate.AuthorityKeyId) {
				leaf.Issuer = ca
			}
		}
	}
}

// workload checks one workload: injected whole, or not at all and on purpose.
func (c *checker) workload(item *yaml.RNode, path []string) {
	object := report.ObjectOf(item)
	template, err := item.Pipe(yaml.Lookup(path...))
	if err != nil || template == nil {
		c.report.Error(object, strings.Join(path, "."), "is missing")
		return
	}
	var pod corev1.PodTemplateSpec
	if data, err := template.MarshalJSON(); err != nil || json.UnmarshalCaseSensitivePreserveInts(data, &pod) != nil {
		c.report.Error(object, strings.Join(path, "."), "cannot be read")
		return
	}
	annotation, injected := pod.Annotations[contract.WorkloadAnnotation]
	if !injected {
		c.uninjected(object, pod)
		return
	}
	workload, err := contract.ParseWorkload([]byte(annotation))
	if err != nil {
		c.report.Error(object, "metadata.annotations["+contract.WorkloadAnnotation+"]", "%v", err)
		return
	}
	inits := pod.Spec.InitContainers
	if len(inits) < 2 || inits[0].Name != contract.InitName || inits[1].Name != contract.ProxyName {
		c.report.Error(object, "initContainers", "must start with %s and %s; a later transformer or patch has moved or removed them", contract.InitName, contract.ProxyName)
	}
	if workloadID := node.Get(item.YNode(), "metadata", "name"); workloadID != nil && !strings.HasSuffix(workload.SPIFFEID, "/"+workloadID.Value) {
		c.report.Error(object, "metadata.name", "is not the name in its identity %s; render after what renames it (the function belongs last into the outermost overlay)", workload.SPIFFEID)
	}
	c.volume(object, pod, workload.SPIFFEID)
}

func (c *checker) uninjected(object report.Object, pod corev1.PodTemplateSpec) {
	ours := func(x corev1.Container) bool { return strings.HasPrefix(x.Name, contract.NamePrefix) }
	if slices.ContainsFunc(pod.Spec.InitContainers, ours) || slices.ContainsFunc(pod.Spec.Containers, ours) {
		c.report.Error(object, "initContainers", "is half injected: it has a container of ours and no annotation %s", contract.WorkloadAnnotation)
		return
	}
	if c.options.EveryWorkload && !pod.Spec.HostNetwork && pod.Annotations[contract.InjectAnnotation] != "disabled" {
		c.report.Error(object, "", "is not in the mesh; was the function skipped (kustomize without --enable-exec skips it silently)? On purpose it is with the annotation %s: disabled",
			contract.InjectAnnotation)
	}
}

// volume follows the projected volume to the objects that it names.
func (c *checker) volume(object report.Object, pod corev1.PodTemplateSpec, identity string) {
	i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == contract.VolumeName && v.Projected != nil })
	if i < 0 {
		c.report.Error(object, "volumes", "lacks the projected volume %q", contract.VolumeName)
		return
	}
	for _, source := range pod.Spec.Volumes[i].Projected.Sources {
		if source.Secret == nil || !slices.ContainsFunc(source.Secret.Items, func(k corev1.KeyToPath) bool { return k.Path == contract.LeafFile }) {
			continue
		}
		leaf := c.secrets[object.Namespace+"/"+source.Secret.Name]
		switch {
		case leaf == nil:
			c.report.Error(object, "volumes", "mounts secret %q, which is not among the manifests", source.Secret.Name)
		case leaf.Identity != identity:
			c.report.Error(object, "volumes", "mounts secret %q of %s, and is %s", source.Secret.Name, leaf.Identity, identity)
		}
	}
	if c.bundles[object.Namespace] == nil {
		c.report.Error(object, "volumes", "mounts configmap %q, which is not among the manifests", contract.BundleName)
	}
	if !c.meshes[object.Namespace] {
		c.report.Error(object, "volumes", "mounts configmap %q, which is not among the manifests", contract.MeshName)
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

func decodeData(secret *yaml.RNode) map[string]string {
	data := map[string]string{}
	for key, text := range secret.GetDataMap() {
		if plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err == nil {
			data[key] = string(plain)
		}
	}
	if plain := node.Get(secret.YNode(), "stringData"); plain != nil {
		for i := 0; i+1 < len(plain.Content); i += 2 {
			data[plain.Content[i].Value] = plain.Content[i+1].Value
		}
	}
	return data
}
