// Package verify checks rendered manifests from outside. It sees what will be applied and nothing of how it was made.
// The last step of every render, and the command for CI and GitOps, where kustomize fails open.
package verify

import (
	"crypto/x509"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
)

// Leaf is one workload's certificate as it stands in the manifests.
type Leaf struct {
	Secret      report.Object
	Identity    string
	Certificate *x509.Certificate // nil when it is in the cluster alone
	Issuer      *x509.Certificate // nil when no bundle holds it
	IssuedBy    string            // of a leaf in the cluster alone, who put it there: "ClusterIssuer/mesh", or the user
	Due         time.Time         // after which it is to be renewed; zero without a certificate

	keyFile string // in which the Secret holds the key: api.SealedKeyFile, or PlainKeyFile with SOPS
	written string // value of api.WrittenAnnotation
}

// Options say what is checked.
type Options struct {
	Now time.Time
	// a workload that is not injected and does not say so (meshless.dev/inject: disabled) is an error
	EveryWorkload bool
	// whatever a workload sends or takes without mutual TLS on purpose is an error, and so is one that is not injected
	NoExclusions bool
	// the pods were written a moment ago, by the code that would write them again: that they are what a plan says is
	// known
	JustWritten bool
	// HeldBack says which Jobs and Pods run an earlier image than the others, as EveryWorkload does
	HeldBack bool
	// Overrides are the annotations by which a pod template may say otherwise than the config, without
	// api.AnnotationPrefix; default v1alpha1.DefaultOverrides
	Overrides []string
	Kinds     manifest.Kinds
	// RenewBefore is the config's; zero where it is not known, and the Secrets say when their leaves are due
	RenewBefore time.Duration
}

// Check reports what is wrong with the items.
func Check(items []*yaml.RNode, o Options, r *report.Report) Result {
	c := &checker{options: o, report: r, secrets: map[string]*Leaf{}, texts: map[string]bool{}, revoked: map[string][]string{}, bundles: map[string]*svid.Bundle{}, bundleObjects: map[string]*yaml.RNode{}, meshObjects: map[string]*yaml.RNode{}, meshes: map[string]*meshmap.Map{},
		managed: map[string]*Leaf{}, declarations: map[*yaml.RNode]*manifest.Declaration{}, given: map[string]*yaml.RNode{}}
	if c.options.Overrides == nil {
		c.options.Overrides = v1alpha1.DefaultOverrides()
	}
	r.Locate(items)
	given := items
	if items = c.resolved(given); !slices.Equal(given, items) {
		r.Locate(items) // those that were resolved are copies
	}
	if r.Failed() || !c.wellFormed(items) {
		return Result{}
	}
	if items = manifest.Flatten(items); !c.wellFormed(items) {
		return Result{}
	}
	for _, item := range items {
		c.readBundle(item)
	}
	if c.severalPackages() {
		return Result{}
	}
	for _, item := range items {
		c.readSecret(item)
		c.readCertificate(item)
		if item.GetKind() == "Secret" {
			c.given[namespacedName(report.ObjectOf(item), item.GetName())] = item
		}
	}
	c.readPolicies(items)
	for _, item := range items {
		c.item(item)
		c.ageIdentities(item)
	}
	c.readers()
	c.declared()
	c.referred()
	c.identities(items)
	c.bundlesAlike(items)
	c.maps(items)
	c.federation()
	c.inTime(items)
	if o.EveryWorkload || o.HeldBack {
		c.oneImage()
	}
	if o.EveryWorkload {
		if !c.unread { // then it is not known who mounts what
			c.orphans()
		}
		c.warnUneven()
		c.uniform()
		c.annotated(c.surroundings(items))
	}
	if o.EveryWorkload && c.workloads == 0 {
		r.Error(report.Object{}, "", "there is no workload in the input: did what should have rendered it fail?")
	}
	return Result{c.leaves, c.images(), c.authorities()}
}

// Rendered is Check as the last step of a render, which knows best what is in the mesh.
func Rendered(items []*yaml.RNode, kinds manifest.Kinds, now time.Time, r *report.Report) {
	Check(items, Options{Now: now, JustWritten: true, Overrides: api.Overrides, Kinds: kinds}, r)
}

type checker struct {
	options  Options
	report   *report.Report
	leaves   []Leaf
	secrets  map[string]*Leaf        // by "<namespace>/<name>"
	bundles  map[string]*svid.Bundle // by namespace
	distinct []string                // namespaces whose bundles differ from those before
	texts    map[string]bool
	revoked  map[string][]string     // that each bundle lists, sorted, by namespace
	meshes   map[string]*meshmap.Map // by namespace
	meshMaps []meshMap               // the same, in the order of the items

	bundleObjects map[string]*yaml.RNode // by namespace
	meshObjects   map[string]*yaml.RNode // by namespace
	hookCopies    []*yaml.RNode          // of both, for hooks
	services      []*yaml.RNode          // those of ours
	injecting     []*yaml.RNode          // of declared workloads, and what they declare
	declarations  map[*yaml.RNode]*manifest.Declaration

	// of Certificates of cert-manager, by "<namespace>/<name>" of the Secret that they write
	managedSpecs []managedCertificate
	managed      map[string]*Leaf
	given        map[string]*yaml.RNode // every Secret, by namespacedName
	issuer       *issuerRef             // that of the first Certificate of cert-manager
	trust        trustSource            // where the first proxy takes its bundle from whose leaf cert-manager issues

	workloads int    // seen, injected or not
	pods      []*pod // in the order of the items
	injected  []*pod // of pods
	unread    bool   // an injected pod could not be read as a plan

	references []manifest.Reference // in the order of the items
}

// warnUneven warns, once, of a mesh that denies nobody, and of one whose proxies run in two ways.
func (c *checker) warnUneven() {
	if i := slices.IndexFunc(c.meshMaps, func(m meshMap) bool { return m.mesh.Inbound.DryRun }); i >= 0 {
		object := c.meshMaps[i].object
		c.report.Warn(object, report.Data(api.MeshFile), "authorization is a dry run (namespace %q, and maybe more): whoever no rule allows is let in. When the log names nobody who belongs in, set "+
			"spec.authorization.mode: Enforce", manifest.EffectiveNamespace(object))
	}
	byMode := map[bool]report.Object{}
	for _, w := range slices.Backward(c.injected) {
		byMode[w.plan.FIPS140] = w.object
	}
	if len(byMode) == 2 {
		c.report.Warn(byMode[false], "", "its proxy does not run in FIPS 140-3 mode, and that of %s does: render the whole package again", byMode[true])
	}
}

// orphans reports leaves that no workload mounts: its kind may be one that only the config knows, or it has lost its
// sidecar.
func (c *checker) orphans() {
	mounted := map[string]bool{}
	for _, w := range c.injected {
		mounted[w.plan.Workload.SPIFFEID] = true
	}
	for _, leaf := range c.leaves {
		if !mounted[leaf.Identity] {
			c.report.Error(leaf.Secret, "", "is the %s of %s, and no injected workload of that identity is in the input", leaf.Secret.Kind, leaf.Identity)
		}
	}
}

// resolved are the items without aliases and merge keys.
func (c *checker) resolved(items []*yaml.RNode) []*yaml.RNode {
	out := make([]*yaml.RNode, len(items))
	for i, item := range items {
		out[i] = item
		if node.CheckItem(item) != nil {
			continue // wellFormed says it
		}
		direct, err := plain(item)
		if err != nil {
			c.report.ErrorIn(item, "", "%v", err)
			continue
		}
		out[i] = direct
	}
	return out
}

// wellFormed refuses what is no manifest, and an object that stands twice: whichever is applied last counts, so neither
// can be judged.
func (c *checker) wellFormed(items []*yaml.RNode) bool {
	seen := map[report.Object]*yaml.RNode{}
	for _, item := range items {
		object := report.ObjectOf(item)
		err := node.CheckItem(item)
		first := seen[manifest.Key(object)]
		switch {
		case err != nil:
			c.report.ErrorIn(item, "", "%v", err)
		case isKustomization(item, object):
			continue
		case object.Kind == "" || object.APIVersion == "":
			c.report.ErrorIn(item, "", "lacks apiVersion or kind, so it is no manifest%s", manifest.PatchWay(item, c.report))
		case manifest.HidesNothing(item):
			continue
		case isList(item) && (object.Kind != "List" || object.APIVersion != "v1"):
			c.report.ErrorIn(item, "items", "is a list, which kubectl takes apart; make it a List of v1, or write its items as documents of their own")
		case object.Kind == "List" && object.APIVersion == "v1":
			continue // its items are looked at one by one, and `kubectl get -o yaml` gives it no name
		case first != nil && object.Name == "" && manifest.GenerateName(item) != "": // each is another one
		case first != nil && !manifest.IsLocalConfig(item):
			c.report.ErrorIn(item, "", "stands twice in the input%s%s", c.report.Where(", first in", first), manifest.PatchWay(item, c.report))
		}
		if first == nil {
			seen[manifest.Key(object)] = item
		}
	}
	return !c.report.Failed()
}

// isList tells whether kubectl takes an item apart: whatever its kind is called, one with a list of items is none of
// its own.
func isList(item *yaml.RNode) bool {
	items := node.Get(item.YNode(), "items")
	return manifest.IsList(item) || items != nil && items.Kind == yaml.SequenceNode
}

// isKustomization tells whether an item is a kustomization, which `kustomize fn run` and folders hand over with the
// rest and nobody applies: its kind and name may be missing.
func isKustomization(item *yaml.RNode, object report.Object) bool {
	if object.Kind != "" {
		return strings.HasPrefix(object.APIVersion, "kustomize.config.k8s.io/")
	}
	file, _, err := kioutil.GetFileAnnotations(item)
	return err == nil && slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(file))
}

// item checks whatever may hold pods, and names of ours that somebody else uses.
func (c *checker) item(item *yaml.RNode) {
	object := report.ObjectOf(item)
	if manifest.IsLocalConfig(item) {
		if c.options.EveryWorkload {
			c.options.Kinds.WarnLocalWorkload(item, c.report)
		}
		return
	}
	if d := c.declarations[item]; d != nil {
		c.declaredWorkload(d)
		return
	}
	declared := c.declares(item)
	if c.options.EveryWorkload && !declared {
		c.options.Kinds.WarnUnknownPods(item, c.report)
	}
	templates, known := c.options.Kinds.Find(item)
	if fields := c.options.Kinds.UnknownPodFields(item); c.options.EveryWorkload && !declared && len(fields) > 0 {
		why := "its kind is unknown"
		if known {
			why = "it makes pods beside its known templates: " + strings.Join(fields, ", ")
		}
		c.outside(object, why)
	}
	if known {
		if field := c.options.Kinds.Missing(item); field != "" {
			c.report.Error(object, field, "is missing")
		}
		if reference, refers := manifest.ReferenceOf(item); refers {
			c.references = append(c.references, reference)
		}
		c.workloads += len(templates)
		before := len(c.injected)
		for _, t := range templates {
			c.workload(item, t)
		}
		if c.options.EveryWorkload && len(c.injected) > before {
			manifest.WarnHookPods(item, c.report)
		}
		return
	}
	if c.options.EveryWorkload && manifest.IsTripwire(item) {
		c.report.Error(object, "", "is here, so the function of meshless did not run, which takes it out: kustomize skips it silently without --enable-alpha-plugins --enable-exec. Build with both, or with `meshless build`")
	}
	switch ours := item.GetAnnotations()[api.IdentityAnnotation] != ""; {
	case !ours && reserved(object):
		c.report.Error(object, "metadata.name", "is the name of a %s of meshless, and this is none (it lacks the annotation %s)", object.Kind, api.IdentityAnnotation)
	case ours && object.Kind == "Service":
		c.services = append(c.services, item)
	}
}

// reserved tells whether an object has a name as a render gives it, of this edition or of the one before, whose names
// ended before the package's.
func reserved(o report.Object) bool {
	named := func(prefix string) bool { return strings.HasPrefix(o.Name, prefix) || o.Name+"-" == prefix }
	switch o.Kind {
	case "ConfigMap":
		return named(api.BundleName("")) || named(api.MeshName("")) || named(api.HookBundlePrefix) || named(api.HookMeshPrefix)
	case "Service":
		return named(api.MembersPrefix) || named(api.AliasPrefix)
	}
	if o.Kind == manifest.NetworkPolicyKind && o.APIVersion == manifest.NetworkPolicyAPIVersion {
		return strings.HasPrefix(o.Name, api.DirectPolicyPrefix)
	}
	if manifest.IsPolicyGroup(o.APIVersion) && slices.Contains(manifest.PolicyKinds, o.Kind) {
		return strings.HasPrefix(o.Name, api.NamePrefix)
	}
	return false
}

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
