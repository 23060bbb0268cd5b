// Package verify checks rendered manifests from outside. It sees what will be applied and nothing of how it was made.
// The last step of every render, and the command for CI and GitOps, where kustomize fails open.
package verify

import (
	"crypto/x509"
	"path"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
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
