// Package manifest reads the items of a render into a model: workloads with their pod templates, the Services that
// select them, namespaces, and the state that an earlier render left. It edits nothing. Refusals go to the report.
package manifest

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
)

// LocalConfigAnnotation marks items that are never applied to a cluster (KRM function specification).
const LocalConfigAnnotation = "config.kubernetes.io/local-config"

// Model is what a render knows.
type Model struct {
	Spec        v1alpha1.Spec
	TrustDomain spiffeid.TrustDomain
	Package     string      // its name
	SharedCA    bool        // other packages have the same authority; ReadShared tells
	Workloads   []*Workload // those in the mesh, in the order of the items
	Outside     []*Workload // those that are not
	Services    []*Service  // those with a workload in the mesh behind them
	// those in namespaces of the mesh that lead out of it, and those that the config names: <service>.<namespace>,
	// sorted
	OutsideServices []string
	Callers         []Caller // whom other manifests name as a client of them
	// ports that an earlier render has opened for the API server
	PassedBefore map[Place]netset.Ports
	// policies of other meshes, by which nothing here goes
	ForeignPolicies []ForeignPolicy
	Quotas          []corev1.ResourceQuota
	LimitRanges     []corev1.LimitRange
	RuntimeHandlers map[string]string // of the RuntimeClasses in the input, by their names
	// those in the input, by name
	NamespaceObjects map[string]corev1.Namespace
	NetworkPolicies  []*yaml.RNode // of any API group; none unless the config asks for them
	State            State

	kinds       Kinds
	references  []Reference
	unexplained []unexplained
	inMesh      []string // names of Services that the config calls plaintext, and that are in the mesh
	seen        map[spiffeid.ID]*Workload
	customWaves map[string]int // of objects of kinds that are none of Kubernetes' own, by namespace
}

// State is what an earlier render left, found by annotation and never by name.
type State struct {
	Authority          *yaml.RNode              // CertificateAuthority
	FurtherAuthorities []*yaml.RNode            // CertificateAuthorities beside Authority
	Leaves             map[string]*yaml.RNode   // Secrets by SPIFFE ID
	Bundles            []*yaml.RNode            // ConfigMaps with api.BundleFile
	Meshes             []*yaml.RNode            // ConfigMaps with api.MeshFile
	Members            []*yaml.RNode            // members Services
	Aliases            []*yaml.RNode            // Services of type ExternalName
	Duplicate          map[string][]*yaml.RNode // further Secrets of a SPIFFE ID that has one

	Certificates map[string]*yaml.RNode // Certificates of cert-manager by SPIFFE ID; derived at every render
	// Policies of declared workloads by kind and SPIFFE ID; derived at every render
	Policies map[string]map[string]*yaml.RNode
	// NetworkPolicies of workloads without redirect rules by SPIFFE ID; derived at every render
	DirectPolicies map[string]*yaml.RNode
	// Copies of bundles and mesh maps for hooks, by SPIFFE ID; derived at every render
	HookBundles, HookMeshes map[string]*yaml.RNode
}

// Build reads the items, those of Lists one by one (Flatten). Pod templates must be free of what an earlier injection
// put in.
func Build(items []*yaml.RNode, spec v1alpha1.Spec, r *report.Report) *Model {
	td, err := spiffeid.TrustDomainFromString(spec.TrustDomain)
	if err != nil {
		r.Error(r.Config(), "spec.trustDomain", "%v", err)
		return nil
	}
	m := &Model{Spec: spec, TrustDomain: td, kinds: KindsOf(spec), seen: map[spiffeid.ID]*Workload{}, customWaves: map[string]int{}, NamespaceObjects: map[string]corev1.Namespace{}, State: FindState(nil)}
	var services []corev1.Service
	for _, item := range items {
		switch {
		case m.State.keep(item):
		case IsLocalConfig(item):
			m.kinds.WarnLocalWorkload(item, r)
		case m.isWorkload(item):
			m.addItem(item, r)
			m.warnUnknownPods(item, r)
		case item.GetApiVersion() == "v1" && item.GetKind() == "Service":
			if s, ok := decode[corev1.Service](item, item, "", r); ok {
				refuseServiceAnnotations(s, report.ObjectOf(item), r)
				services = append(services, s)
			}
		case item.GetApiVersion() == "v1" && item.GetKind() == "Namespace":
			if n, ok := decode[corev1.Namespace](item, item, "", r); ok {
				if has(m.NamespaceObjects, n.Name) {
					r.ErrorIn(item, "metadata.name", "is in the input twice; its labels decide what it may, so keep one")
				}
				m.NamespaceObjects[n.Name] = n
			}
		case HidesNothing(item):
		case IsList(item):
			r.ErrorIn(item, "items", "a %s hides its workloads from the render; make it a List of v1, or write its items as documents of their own", item.GetKind())
		default:
			m.readWave(item)
			refuseStrayAnnotations(item, r)
			m.warnUnknownPods(item, r)
			if spec.Authorization.FromNetworkPolicies && strings.HasSuffix(item.GetKind(), "NetworkPolicy") {
				m.NetworkPolicies = append(m.NetworkPolicies, item)
			}
		}
	}
	m.addDeclared(r)
	m.refuseDuplicates(items, r)
	m.warnReferences(r)
	m.Package = m.packageName(r)
	m.readSurroundings(items) // LimitRanges say what pods ask for, and so their class
	for _, w := range m.Workloads {
		w.Plan = m.plan(w, r)
	}
	m.refuseAmbiguous(services, r)
	services = append(services, m.declaredServices()...)
	m.addServices(services, r)
	m.addDirectPorts()
	m.refuseContradictions(r)
	m.WarnUnexplained(services, items, r)
	m.readCallers(items, services, r)
	m.passAPIServer()
	m.checkNamespaces(r)
	m.checkOrder(r)
	return m
}

// PatchWay is the way out for an item from a file, which may be a patch of a kustomization below a package and is read
// as a manifest of the package.
func PatchWay(item *yaml.RNode, r *report.Report) string {
	if r.Where("", item) == "" {
		return ""
	}
	return ". If it is a patch of a kustomization, name its file in a .krmignore: kpt and meshless leave it alone then"
}

// harmlessLists are the lists, by "<group>/<kind>", whose items a render never reads: `kubectl get -o yaml` and
// generators of manifests write them.
var harmlessLists = []string{
	"/ConfigMapList", "/ServiceAccountList", "/PersistentVolumeClaimList",
	"rbac.authorization.k8s.io/RoleList", "rbac.authorization.k8s.io/RoleBindingList",
	"rbac.authorization.k8s.io/ClusterRoleList", "rbac.authorization.k8s.io/ClusterRoleBindingList",
}

// HidesNothing tells whether an item is a list of objects that make no pods, and that are no state of ours.
func HidesNothing(item *yaml.RNode) bool {
	if !IsList(item) || !slices.Contains(harmlessLists, kindOf(item)) {
		return false
	}
	items := node.Get(item.YNode(), "items")
	return items != nil && items.Kind == yaml.SequenceNode && !slices.ContainsFunc(items.Content, hides)
}

// hides tells whether an item of such a list is another thing than the list says.
func hides(n *yaml.Node) bool {
	if n.Kind != yaml.MappingNode || node.HasAlias(n) {
		return true
	}
	item := yaml.NewRNode(n)
	if err := node.CheckItem(item); err != nil {
		return true
	}
	if kind := item.GetKind(); kind != "" && !slices.Contains(harmlessLists, groupOf(item)+"/"+kind+"List") {
		return true
	}
	for key := range item.GetAnnotations() {
		if strings.HasPrefix(key, api.AnnotationPrefix) {
			return true
		}
	}
	return strings.HasPrefix(item.GetName(), api.NamePrefix)
}

// IsList tells whether an item is a DeploymentList or the like, which kubectl takes apart when it is applied.
func IsList(item *yaml.RNode) bool {
	return strings.HasSuffix(node.Scalar(item.YNode(), "kind"), "List") && node.Index(item.YNode(), "items") >= 0
}

func (m *Model) isWorkload(item *yaml.RNode) bool {
	_, known := m.kinds.Templates(item)
	return known
}

// FindState returns the state among the items.
func FindState(items []*yaml.RNode) State {
	s := State{Leaves: map[string]*yaml.RNode{}, Duplicate: map[string][]*yaml.RNode{}, Certificates: map[string]*yaml.RNode{}, Policies: map[string]map[string]*yaml.RNode{}, DirectPolicies: map[string]*yaml.RNode{},
		HookBundles: map[string]*yaml.RNode{}, HookMeshes: map[string]*yaml.RNode{}}
	for _, item := range items {
		s.keep(item)
	}
	return s
}

// keep keeps an item that is state and tells whether it was.
func (s *State) keep(item *yaml.RNode) bool {
	if item.GetKind() == v1alpha1.KindCertificateAuthority && item.GetApiVersion() == api.APIVersion {
		if s.Authority != nil {
			s.FurtherAuthorities = append(s.FurtherAuthorities, item)
		} else {
			s.Authority = item
		}
		return true
	}
	identity := item.GetAnnotations()[api.IdentityAnnotation]
	if identity != "" && IsManagedCertificate(item) {
		if s.Certificates[identity] == nil { // else one of the two goes: nothing of either is lost
			s.Certificates[identity] = item
		}
		return true
	}
	if identity != "" && IsPolicy(item) {
		of := s.Policies[item.GetKind()]
		if of == nil {
			of = map[string]*yaml.RNode{}
			s.Policies[item.GetKind()] = of
		}
		if of[identity] == nil { // else one of the two goes
			of[identity] = item
		}
		return true
	}
	if identity != "" && IsDirectPolicy(item) {
		if s.DirectPolicies[identity] == nil { // else one of the two goes
			s.DirectPolicies[identity] = item
		}
		return true
	}
	if identity == "" || item.GetApiVersion() != "v1" {
		return false
	}
	if IsHookCopy(item) {
		s.keepCopy(identity, item)
		return true
	}
	switch data := item.GetDataMap(); {
	case item.GetKind() == "Secret":
		if s.Leaves[identity] != nil {
			s.Duplicate[identity] = append(s.Duplicate[identity], item)
		} else {
			s.Leaves[identity] = item
		}
	case item.GetKind() == "ConfigMap" && has(data, api.BundleFile):
		s.Bundles = append(s.Bundles, item)
	case item.GetKind() == "ConfigMap" && has(data, api.MeshFile):
		s.Meshes = append(s.Meshes, item)
	case item.GetKind() == "Service" && AliasOf(item) != "":
		s.Aliases = append(s.Aliases, item)
	case item.GetKind() == "Service":
		s.Members = append(s.Members, item)
	default:
		return false
	}
	return true
}

// keepCopy keeps the first copy of each file for a hook.
func (s *State) keepCopy(identity string, item *yaml.RNode) {
	copies := s.HookBundles
	if has(item.GetDataMap(), api.MeshFile) {
		copies = s.HookMeshes
	}
	if copies[identity] == nil { // else one of the two goes
		copies[identity] = item
	}
}

// refuseDuplicates refuses a second CertificateAuthority or config: whichever were taken, the other's leaves would be
// replaced, and a planted authority would sign the mesh.
func (m *Model) refuseDuplicates(items []*yaml.RNode, r *report.Report) {
	for _, duplicate := range m.State.FurtherAuthorities {
		r.ErrorIn(duplicate, "kind", "is a second CertificateAuthority; the first is %s. One package has one: restore the right one from Git and delete the other. "+
			"Sub-packages with a mesh of their own are rendered on their own", report.NameOf(m.State.Authority))
	}
	var config *yaml.RNode
	for _, item := range items {
		if item.GetKind() != v1alpha1.KindMutualTLS || item.GetApiVersion() != v1alpha1.APIVersion {
			continue
		}
		if node.Scalar(item.YNode(), "spec", "issuance") == string(v1alpha1.IssuanceNever) {
			continue // a validator's, beside the mutator's
		}
		if config != nil {
			r.ErrorIn(item, "kind", "is a second config; the first is %s. One package is one mesh; sub-packages with a mesh of their own are rendered on their own", report.NameOf(config))
		}
		config = item
	}
}

// Namespaces are those of the mesh, sorted.
func (m *Model) Namespaces() []string {
	var names []string
	for _, w := range m.Workloads {
		names = append(names, w.Namespace)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// checkNamespaces refuses namespaces whose pod-security level forbids NET_ADMIN, without which no redirect can be made.
// Both baseline and restricted do (Kubernetes documentation, "Pod Security Standards"). Mode None needs none.
func (m *Model) checkNamespaces(r *report.Report) {
	for _, name := range m.Namespaces() {
		level := m.NamespaceObjects[name].Labels["pod-security.kubernetes.io/enforce"]
		if level != "baseline" && level != "restricted" {
			continue
		}
		if i := slices.IndexFunc(m.Workloads, func(w *Workload) bool { return w.Namespace == name && !w.Plan.NoRedirect() }); i >= 0 {
			r.Error(report.Object{APIVersion: "v1", Kind: "Namespace", Name: name}, "metadata.labels[pod-security.kubernetes.io/enforce]",
				"pod-security.kubernetes.io/enforce: %s forbids the capability NET_ADMIN of the init container, which %s gets; mesh it without (spec.redirect of the config, "+
					"or the annotation %s: None on the pod template), set the level to privileged, or exclude the namespace in spec.workloads", level, m.Workloads[i].Object, api.RedirectAnnotation)
		}
	}
}

// decode reads a part of an item, the whole or what is below a field, into a typed object for reading.
func decode[T any](part, item *yaml.RNode, field string, r *report.Report) (T, bool) {
	var object T
	if err := node.Decode(part, &object); err != nil {
		path, message := node.FieldOf(err)
		r.ErrorIn(item, report.Below(field, path), "cannot be read: %s", message)
		return object, false
	}
	return object, true
}

func has[K comparable, V any](m map[K]V, key K) bool { _, ok := m[key]; return ok }
