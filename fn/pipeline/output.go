package pipeline

import (
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/issue"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/retarget"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
)

// StateFolder is where new state objects are placed in a package, and where `meshless issue` writes them beside a
// kustomization.
const StateFolder = "mtls"

// managedBy marks what a render adds, with the recommended label of Kubernetes.
const managedBy = "app.kubernetes.io/managed-by"

// output brings the objects that a render adds into the list of items. An object that is there already is updated in
// place, so that it keeps its file, its comments and whatever others wrote into it; one that nothing needs any more
// goes.
type output struct {
	model *manifest.Model
	place bool // new objects get a path annotation
	items []*yaml.RNode

	held   map[*manifest.Workload]string // what was written into templates that cannot be changed
	direct []retarget.Policy             // of workloads without redirect rules

	bundles, meshes map[string]*yaml.RNode // of the state, by namespace

	order map[*yaml.RNode]map[string]string // of manifest.OrderAnnotations, of the state of hooks

	explicit map[string]bool // namespaces that a manifest names; the workloads of "default" may have none
}

func (o *output) write(config *v1alpha1.MutualTLS, meshes map[string]*meshmap.Map, issued *issue.Result, r *report.Report) {
	o.explicit, o.order = map[string]bool{}, map[*yaml.RNode]map[string]string{}
	hooks := map[string][]*manifest.Workload{} // that need state of their own
	for _, w := range o.model.Workloads {
		o.explicit[w.Namespace] = o.explicit[w.Namespace] || w.Object.Namespace != ""
		if w.Apart() {
			hooks[w.Namespace] = append(hooks[w.Namespace], w)
		}
	}
	o.bundles, o.meshes = byNamespace(o.model.State.Bundles), byNamespace(o.model.State.Meshes)
	o.writeAuthorities(config, issued)
	keep := map[*yaml.RNode]bool{}
	name := api.MeshName(o.model.Package)
	for _, namespace := range o.model.Namespaces() {
		if !o.model.Spec.UsesCertManager() {
			keep[o.writeBundle(namespace, issued)] = true
		}
		mesh, err := meshes[namespace].Marshal()
		if err != nil {
			r.Error(report.Object{APIVersion: "v1", Kind: "ConfigMap", Namespace: namespace, Name: name}, report.Data(api.MeshFile), "writing the mesh map: %v", err)
			return
		}
		keep[o.writeConfigMap(o.meshes, name, namespace, api.MeshFile, string(mesh))] = true
		for _, w := range hooks[namespace] {
			o.writeHookCopies(w, string(svid.EncodeCertificates(issued.Bundle...)), string(mesh), keep)
		}
	}
	o.writeServices(keep)
	o.writePolicies(keep, r)
	for _, p := range o.direct {
		keep[o.writeDirect(p)] = true
	}
	for _, w := range o.model.Issued() {
		var state *yaml.RNode
		if o.model.Spec.UsesCertManager() {
			state = o.writeCertificate(w)
		} else {
			state = o.writeLeaf(w, issued.Leaves[w])
		}
		setOrDrop(state, api.WrittenAnnotation, o.held[w])
		keep[state] = true
		if w.Apart() {
			o.order[state] = w.HookAnnotations()
		}
	}
	o.writeOrder(keep)
	o.removeAllBut(keep, r)
}

// writeBundle ensures the bundle of a namespace and returns it.
func (o *output) writeBundle(namespace string, issued *issue.Result) *yaml.RNode {
	bundle := string(svid.EncodeCertificates(issued.Bundle...))
	item := o.writeConfigMap(o.bundles, api.BundleName(o.model.Package), namespace, api.BundleFile, bundle)
	shared := ""
	if o.model.SharedCA {
		shared = "true"
	}
	setOrDrop(item, api.SharedAnnotation, shared)
	setOrDrop(item, api.RevokedAnnotation, certs.FormatDigests(issued.RevokedKeys))
	setOrDrop(item, api.AdditionalAnnotation, fingerprints(o.model.Spec.AdditionalAuthorities()))
	return item
}

func fingerprints(certificates []*x509.Certificate) string {
	var names []string
	for _, c := range certificates {
		names = append(names, svid.Fingerprint(c))
	}
	return certs.FormatDigests(names)
}

// writeConfigMap ensures one of the two ConfigMaps of a namespace and returns it.
func (o *output) writeConfigMap(existing map[string]*yaml.RNode, name, namespace, key, text string) *yaml.RNode {
	item := existing[namespace]
	if item == nil { // the package's name is not in that of its file: nobody else writes into its state folder
		file := strings.TrimSuffix(strings.TrimPrefix(name, api.NamePrefix), "-"+o.model.Package)
		item = o.add("v1", "ConfigMap", path.Join(namespace, file+".yaml"))
	}
	o.setName(item, name, namespace)
	annotate(item, map[string]string{api.IdentityAnnotation: o.model.TrustDomain.IDString(), api.PackageAnnotation: o.model.Package})
	ensureText(node.Child(item.YNode(), "data"), key, node.Literal(text))
	return item
}

// writeLeaf ensures the Secret of a workload and returns it. Without a new leaf its data is not touched.
func (o *output) writeLeaf(w *manifest.Workload, leaf *issue.Leaf) *yaml.RNode {
	secret := o.model.State.Leaves[w.ID.String()]
	if secret == nil {
		file := strings.TrimPrefix(w.SecretName(), api.NamePrefix) + ".yaml"
		secret = o.add("v1", "Secret", path.Join(w.Namespace, file))
		node.Set(secret.YNode(), "type", node.Text("Opaque"))
	}
	o.setName(secret, w.SecretName(), w.Namespace)
	if leaf == nil {
		return secret
	}
	annotate(secret, leaf.Record.Annotations())
	certificate := base64.StdEncoding.EncodeToString(svid.EncodeCertificates(leaf.Certificate))
	ensureText(node.Child(secret.YNode(), "data"), api.LeafFile, node.Text(certificate))
	writeKey(secret, leaf.Key)
	return secret
}

// writeKey brings a sealed key into a Secret, and takes out that of another format.
func writeKey(secret *yaml.RNode, key issue.SealedKey) {
	data := node.Child(secret.YNode(), "data")
	if key.SOPS == nil {
		node.Drop(data, api.PlainKeyFile)
		node.Drop(secret.YNode(), seal.SOPSField)
		ensureText(data, api.SealedKeyFile, node.Text(base64.StdEncoding.EncodeToString([]byte(key.Age))))
		return
	}
	node.Drop(data, api.SealedKeyFile)
	ensureText(data, api.PlainKeyFile, node.Text(key.SOPS.Value))
	node.Set(secret.YNode(), seal.SOPSField, key.SOPS.Metadata)
}

// add appends an object with the annotations that place it, and nothing of any other object's metadata.
func (o *output) add(apiVersion, kind, file string) *yaml.RNode {
	item := yaml.NewRNode(node.Object("apiVersion", apiVersion, "kind", kind, "metadata", node.Object("name", "", "namespace", "")))
	o.placeAt(item, file)
	node.Set(node.Child(node.Child(item.YNode(), "metadata"), "labels"), managedBy, node.Text("meshless"))
	o.items = append(o.items, item)
	return item
}

// placeAt asks the caller of the function to store a new object in a file of the state folder, where it is the only
// one. One file for each object keeps parallel branches from conflicting.
func (o *output) placeAt(item *yaml.RNode, file string) {
	if !o.place {
		return
	}
	file = path.Join(StateFolder, file)
	annotate(item, map[string]string{kioutil.PathAnnotation: file, kioutil.IndexAnnotation: "0"})
}

// setName gives a state object its canonical name: prefixes, suffixes and namespaces of a kustomization have moved it.
// What belongs to no namespace is of the namespace "".
func (o *output) setName(item *yaml.RNode, name, namespace string) {
	metadata := node.Child(item.YNode(), "metadata")
	ensureText(metadata, "name", node.Text(name))
	if o.explicit[namespace] {
		ensureText(metadata, "namespace", node.Text(namespace))
	} else {
		node.Drop(metadata, "namespace")
	}
}

// removeAllBut drops state that no workload of the mesh needs.
func (o *output) removeAllBut(keep map[*yaml.RNode]bool, r *report.Report) {
	o.items = slices.DeleteFunc(o.items, func(item *yaml.RNode) bool {
		identity := item.GetAnnotations()[api.IdentityAnnotation]
		if identity == "" || keep[item] || item.GetKind() == v1alpha1.KindCertificateAuthority && !o.model.Spec.UsesCertManager() {
			return false
		}
		r.Info(report.ObjectOf(item), "", "removed: no workload of the mesh needs it (%s)", identity)
		return true
	})
}

// argoSkip keeps Argo CD from applying a file of a plain folder, such as a kpt package: it does not know
// manifest.LocalConfigAnnotation.
const argoSkip = "# +argocd:skip-file-rendering"

// writeAuthorities ensures the CertificateAuthority. It is local config: the next render sees it, the cluster never
// does.
func (o *output) writeAuthorities(config *v1alpha1.MutualTLS, issued *issue.Result) {
	if issued.Authorities == nil {
		return
	}
	item := o.model.State.Authority
	if item == nil {
		item = yaml.NewRNode(node.Object("apiVersion", api.APIVersion, "kind", v1alpha1.KindCertificateAuthority,
			"metadata", node.Object("name", cmp.Or(config.Name, "meshless"))))
		annotate(item, map[string]string{
			manifest.LocalConfigAnnotation: "true", api.IdentityAnnotation: o.model.TrustDomain.IDString(),
		})
		item.YNode().HeadComment = argoSkip // it is alone in its file
		o.placeAt(item, "ca.yaml")
		o.items = append(o.items, item)
	} else if state, err := v1alpha1.ParseCertificateAuthority(item); err == nil && issued.Authorities.Describes(state, issued.Revocations) {
		return
	}
	node.Set(item.YNode(), "spec", authoritiesNode(issued.Authorities.State(o.model.TrustDomain, issued.Revocations)))
}

func authoritiesNode(spec v1alpha1.CertificateAuthoritySpec) *yaml.Node {
	authorities := node.List()
	for _, a := range spec.Authorities {
		n := node.Object("slot", string(a.Slot))
		if a.ActiveSince != nil {
			node.Set(n, "activeSince", node.Text(a.ActiveSince.Format(time.RFC3339)))
		}
		if a.TrustedUntil != nil {
			node.Set(n, "trustedUntil", node.Text(a.TrustedUntil.Format(time.RFC3339)))
		}
		if a.Replaced != nil {
			node.Set(n, "replaced", node.Text(a.Replaced.Format(time.RFC3339)))
		}
		node.Set(n, "certificate", node.Literal(a.Certificate))
		if a.SealedKey != "" {
			node.Set(n, "recipients", node.Text(a.Recipients))
			node.Set(n, "sealedKey", node.Literal(a.SealedKey))
		}
		authorities.Content = append(authorities.Content, n)
	}
	out := node.Object("trustDomain", spec.TrustDomain, "authorities", authorities)
	if len(spec.Revoked) > 0 {
		revoked := node.List()
		for _, k := range spec.Revoked {
			revoked.Content = append(revoked.Content, node.Object("key", k.Key, "spiffeID", k.SPIFFEID, "until", k.Until.UTC().Format(time.RFC3339)))
		}
		node.Set(out, "revoked", revoked)
	}
	return out
}

// setOrDrop ensures an annotation, or its absence where the value is empty.
func setOrDrop(item *yaml.RNode, key, value string) {
	if value != "" {
		annotate(item, map[string]string{key: value})
	} else if annotations := node.Get(node.Get(item.YNode(), "metadata"), "annotations"); annotations != nil {
		node.Drop(annotations, key)
	}
}

// annotate ensures annotations in a fixed order.
func annotate(item *yaml.RNode, annotations map[string]string) {
	mapping := node.Child(node.Child(item.YNode(), "metadata"), "annotations")
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		ensureText(mapping, key, node.Text(annotations[key]))
	}
}

// ensureText sets a string where it is not that string already, so that an equal value keeps its style and comments.
func ensureText(mapping *yaml.Node, key string, want *yaml.Node) {
	if have := node.Get(mapping, key); have == nil || have.Value != want.Value || have.Kind != yaml.ScalarNode {
		node.Set(mapping, key, want)
	}
}

// kustomizeBuildID is what `kustomize build`, and nobody else, puts on every item that it hands to a function.
const kustomizeBuildID = "kustomize.config.k8s.io/id"

// HasPaths tells whether every item says which file it came from, as kpt and `kustomize fn run` hand them over, and
// `kustomize build` does not: the caller of the function will then store what it returns. A path that a manifest or a
// kustomization wrote itself does not make a build one.
func HasPaths(items []*yaml.RNode) bool {
	return len(items) > 0 && !slices.ContainsFunc(items, func(item *yaml.RNode) bool {
		if yaml.IsMissingOrNull(item) || item.YNode().Kind != yaml.MappingNode || item.GetAnnotations()[kustomizeBuildID] != "" {
			return true
		}
		file, _, err := kioutil.GetFileAnnotations(item)
		return err != nil || file == ""
	})
}
