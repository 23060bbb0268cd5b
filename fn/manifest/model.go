// Package manifest reads the items of a render into a model: workloads with their pod templates, the Services that
// select them, namespaces, and the state that an earlier render left. It edits nothing. Refusals go to the report.
package manifest

import (
	"fmt"
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
	// ports that an earlier render has opened for the API server, by the keys of workloads
	PassedBefore map[report.Object]netset.Ports
	// policies of other meshes, by which nothing here goes
	ForeignPolicies []ForeignPolicy
	Quotas          []corev1.ResourceQuota
	LimitRanges     []corev1.LimitRange
	// those in the input, by name
	NamespaceObjects map[string]corev1.Namespace
	NetworkPolicies  []*yaml.RNode // of any API group; none unless the config asks for them
	State            State

	kinds       Kinds
	unexplained []unexplained
	inMesh      []string // names of Services that the config calls plaintext, and that are in the mesh
	seen        map[spiffeid.ID]bool
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
}

// Build reads the items, those of Lists one by one (Flatten). Pod templates must be free of what an earlier injection
// put in.
func Build(items []*yaml.RNode, spec v1alpha1.Spec, r *report.Report) *Model {
	td, err := spiffeid.TrustDomainFromString(spec.TrustDomain)
	if err != nil {
		r.Error(r.Config(), "spec.trustDomain", "%v", err)
		return nil
	}
	m := &Model{Spec: spec, TrustDomain: td, kinds: KindsOf(spec), seen: map[spiffeid.ID]bool{}, NamespaceObjects: map[string]corev1.Namespace{}, State: FindState(nil)}
	var services []corev1.Service
	for _, item := range items {
		switch {
		case m.State.keep(item):
		case IsLocalConfig(item):
			m.kinds.WarnLocalWorkload(item, r)
		case m.isWorkload(item):
			m.addWorkload(item, r)
			m.warnUnknownPods(item, r)
		case item.GetApiVersion() == "v1" && item.GetKind() == "Service":
			if s, ok := decode[corev1.Service](item, report.ObjectOf(item), "", r); ok {
				refuseServiceAnnotations(s, report.ObjectOf(item), r)
				services = append(services, s)
			}
		case item.GetApiVersion() == "v1" && item.GetKind() == "Namespace":
			if n, ok := decode[corev1.Namespace](item, report.ObjectOf(item), "", r); ok {
				if has(m.NamespaceObjects, n.Name) {
					r.Error(report.ObjectOf(item), "metadata.name", "is in the input twice; its labels decide what it may, so keep one")
				}
				m.NamespaceObjects[n.Name] = n
			}
		case IsList(item):
			r.Error(report.ObjectOf(item), "items", "a %s hides its workloads from the render; make it a List of v1, or write its items as documents of their own", item.GetKind())
		default:
			refuseStrayAnnotations(item, r)
			m.warnUnknownPods(item, r)
			if spec.Authorization.FromNetworkPolicies && strings.HasSuffix(item.GetKind(), "NetworkPolicy") {
				m.NetworkPolicies = append(m.NetworkPolicies, item)
			}
		}
	}
	m.refuseDuplicates(items, r)
	m.Package = m.packageName(r)
	for _, w := range m.Workloads {
		w.Plan = m.plan(w, r)
	}
	m.addServices(services, r)
	m.refuseContradictions(r)
	m.WarnUnexplained(services, items, r)
	m.readCallers(items, services, r)
	m.passAPIServer()
	m.readSurroundings(items)
	m.checkNamespaces(r)
	return m
}

// IsList tells whether an item is a DeploymentList or the like, which kubectl takes apart when it is applied.
func IsList(item *yaml.RNode) bool {
	return strings.HasSuffix(item.GetKind(), "List") && item.Field("items") != nil
}

// warnUnknownPods says that pods will run outside of the mesh.
func (m *Model) warnUnknownPods(item *yaml.RNode, r *report.Report) {
	why := fmt.Sprintf("%s of %s is no kind that meshless knows", item.GetKind(), item.GetApiVersion())
	if m.isWorkload(item) {
		why = "it is not in the pod template that spec.workloads.templates names"
	}
	for _, field := range m.kinds.UnknownPodFields(item) {
		way := "Name its pod template in spec.workloads.templates"
		if strings.Contains(field, "[") || !strings.HasSuffix(field, ".spec.containers") {
			way = "Only a whole pod template that no list holds can be named in spec.workloads.templates"
		}
		r.Warn(report.ObjectOf(item), field, "makes pods that stay outside of the mesh: %s. %s", why, way)
	}
}

func (m *Model) isWorkload(item *yaml.RNode) bool {
	_, ok := m.kinds.TemplatePath(item)
	return ok
}

// FindState returns the state among the items.
func FindState(items []*yaml.RNode) State {
	s := State{Leaves: map[string]*yaml.RNode{}, Duplicate: map[string][]*yaml.RNode{}, Certificates: map[string]*yaml.RNode{}}
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
	if identity == "" || item.GetApiVersion() != "v1" {
		return false
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

// refuseDuplicates refuses a second CertificateAuthority or config: whichever were taken, the other's leaves would be
// replaced, and a planted authority would sign the mesh.
func (m *Model) refuseDuplicates(items []*yaml.RNode, r *report.Report) {
	for _, duplicate := range m.State.FurtherAuthorities {
		r.Error(report.ObjectOf(duplicate), "kind", "is a second CertificateAuthority; the first is %s. One package has one: restore the right one from Git and delete the other. "+
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
			r.Error(report.ObjectOf(item), "kind", "is a second config; the first is %s. One package is one mesh; sub-packages with a mesh of their own are rendered on their own", report.NameOf(config))
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
// Both baseline and restricted do (Kubernetes documentation, "Pod Security Standards").
func (m *Model) checkNamespaces(r *report.Report) {
	for _, name := range m.Namespaces() {
		namespace := m.NamespaceObjects[name]
		if level := namespace.Labels["pod-security.kubernetes.io/enforce"]; level == "baseline" || level == "restricted" {
			r.Error(report.Object{APIVersion: "v1", Kind: "Namespace", Name: name}, "metadata.labels[pod-security.kubernetes.io/enforce]",
				"pod-security.kubernetes.io/enforce: %s forbids the capability NET_ADMIN of the init container; set it to privileged, or exclude the namespace in spec.workloads", level)
		}
	}
}

// decode reads a node, the whole of an object or the part below a field, into a typed object for reading.
func decode[T any](item *yaml.RNode, of report.Object, field string, r *report.Report) (T, bool) {
	var object T
	if err := node.Decode(item, &object); err != nil {
		path, message := node.FieldOf(err)
		r.Error(of, report.Below(field, path), "cannot be read: %s", message)
		return object, false
	}
	return object, true
}

func has[K comparable, V any](m map[K]V, key K) bool { _, ok := m[key]; return ok }
