package manifest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Workload is an object that owns a pod template, or a Pod.
type Workload struct {
	Node         *yaml.RNode
	Object       report.Object
	Kind         string      // as in the manifest
	Name         string      // the object's, and a suffix where the object has several templates
	Namespace    string      // "default" where the manifest has none
	ID           spiffeid.ID // zero for workloads outside the mesh
	TemplatePath []string    // of the pod template in Node: keys, and indexes like [0]; empty for a Pod
	Pod          corev1.PodTemplateSpec
	Overrides    Overrides
	// what its pods are told; nil for workloads outside the mesh
	Plan     *podplan.Plan
	Services []*Service // that select it
	// what the config declares; nil for a workload of the input
	Declaration *Declaration
	configField string // where it does
}

// SecretName is the name of the workload's Secret. Names that would be too long for Kubernetes end in a digest instead.
func (w *Workload) SecretName() string { return w.objectName(api.NamePrefix) }

// ManagedSecretName is the Secret that cert-manager writes. It is not that of SecretName: the two are of different
// types, and Kubernetes lets nobody change the type of a Secret, so a change of the issuer would end in an error of the
// API server.
func (w *Workload) ManagedSecretName() string { return w.objectName(api.NamePrefix + "tls-") }

func (w *Workload) objectName(prefix string) string {
	return w.objectNamed(prefix + strings.ToLower(w.Kind) + "-" + w.Name)
}

func (w *Workload) objectNamed(name string) string {
	const limit = 253
	if len(name) <= limit {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return strings.TrimRight(name[:limit-17], ".") + "-" + hex.EncodeToString(sum[:8])
}

// Field is the path of a field of the pod template, for messages: Field("spec.hostNetwork") is
// spec.template.spec.hostNetwork for a Deployment.
func (w *Workload) Field(below string) string {
	if w.configField != "" {
		return w.declaredPath(below)
	}
	return report.Below(FieldPath(w.TemplatePath), below)
}

// Part is the template's field where the object has several, for messages about the workload as a whole; else "".
func (w *Workload) Part() string {
	if w.Name == w.Object.Name {
		return ""
	}
	return FieldPath(w.TemplatePath)
}

// Place tells a pod template of the input from all others.
type Place struct {
	Object report.Object // its key
	Field  string        // of the template
}

// Place is where the pod template stands.
func (w *Workload) Place() Place { return Place{Key(w.Object), FieldPath(w.TemplatePath)} }

// Template is the pod template in Node, or nil.
func (w *Workload) Template() *yaml.Node { return node.At(w.Node.YNode(), w.TemplatePath...) }

// Containers are all containers of the pod by their fields, init containers first.
func (w *Workload) Containers() iter.Seq2[string, corev1.Container] {
	return func(yield func(string, corev1.Container) bool) {
		for i, c := range w.Pod.Spec.InitContainers {
			if !yield(w.Field(fmt.Sprintf("spec.initContainers[%d]", i)), c) {
				return
			}
		}
		for i, c := range w.Pod.Spec.Containers {
			if !yield(w.Field(fmt.Sprintf("spec.containers[%d]", i)), c) {
				return
			}
		}
	}
}

// Replicas is how many pods of the workload run at once at least: what its manifest says, and one where it does not. A
// DaemonSet has one for each node, which no manifest tells.
func (w *Workload) Replicas() int64 {
	field := map[string]string{"Job": "parallelism", "CronJob": "jobTemplate.spec.parallelism", "Pod": "", "DaemonSet": ""}
	path, known := field[w.Kind]
	if !known {
		path = "replicas"
	}
	if path == "" || w.Node == nil {
		return 1
	}
	if n, err := strconv.ParseInt(node.Scalar(w.Node.YNode(), append([]string{"spec"}, strings.Split(path, ".")...)...), 10, 32); err == nil && n >= 0 {
		return n
	}
	return 1
}

// Port resolves a named TCP port of the pod as Kubernetes does (see Running). Containers that do not keep running have
// ended when somebody dials. It is 0 when none has the name.
func (w *Workload) Port(name string) uint16 {
	for _, c := range Running(&w.Pod.Spec) {
		for _, p := range c.Ports {
			if p.Name == name && IsTCP(p.Protocol) {
				return uint16(p.ContainerPort)
			}
		}
	}
	return 0
}

// IsTCP tells whether a port is of TCP, the one protocol that a proxy protects. It is as well where its manifest does
// not say.
func IsTCP(p corev1.Protocol) bool { return p == corev1.ProtocolTCP || p == "" }

// addItem reads the workloads of an item of a known kind.
func (m *Model) addItem(item *yaml.RNode, r *report.Report) {
	if !checkName(item, "", r) {
		return
	}
	templates, _ := m.kinds.Templates(item)
	if field := m.kinds.Missing(item); field != "" {
		r.ErrorIn(item, field, "is missing or no mapping%s", PatchWay(item, r))
		return
	}
	if item.GetKind() != "Pod" || item.GetApiVersion() != "v1" { // whose annotations are the template's
		refuseStrayAnnotations(item, r)
	}
	if reference, refers := ReferenceOf(item); refers {
		m.references = append(m.references, reference)
	}
	before := len(m.Workloads)
	for _, t := range templates {
		m.addWorkload(item, t, r)
	}
	if len(m.Workloads) > before {
		WarnHookPods(item, r)
	}
	for _, field := range m.kinds.gaps(item) {
		r.Warn(report.ObjectOf(item), field, "is missing: pods that a controller makes of this entry stay outside of the mesh. Write a pod template with the names of its containers into the entry, if there are any")
	}
}

// addWorkload reads one workload and decides whether it is in the mesh.
func (m *Model) addWorkload(item *yaml.RNode, t Template, r *report.Report) {
	w := m.readWorkload(item, t, r)
	if w == nil {
		return
	}
	switch {
	case !m.selected(w) || w.Overrides.Disabled:
		m.Outside = append(m.Outside, w)
		return
	case w.Pod.Spec.HostNetwork:
		r.Warn(w.Object, w.Field("spec.hostNetwork"), "a pod on the host's network cannot be redirected; it is left out of the mesh. Say so with the annotation %s: disabled",
			api.InjectAnnotation)
		m.Outside = append(m.Outside, w)
		return
	case WindowsField(&w.Pod.Spec) != "":
		r.Warn(w.Object, w.Field(WindowsField(&w.Pod.Spec)), "a Windows pod cannot be redirected; it is left out of the mesh. Say so with the annotation %s: disabled", api.InjectAnnotation)
		m.Outside = append(m.Outside, w)
		return
	}
	if c, composes := controllers[kindOf(item)]; composes {
		r.Error(w.Object, FieldPath(w.TemplatePath), "cannot be injected: %s. Leave it out of the mesh, with the annotation %s: disabled on the pod template or in spec.workloads.exclude, or take its kind out of spec.workloads.templates%s",
			c.why, api.InjectAnnotation, c.way)
		return
	}
	if item.GetName() == "" {
		r.ErrorIn(item, "metadata.name", "is missing; an identity needs a name, and generateName: %s makes a new one at every apply. "+
			"Give it a name, or leave it out of the mesh, with the annotation %s: disabled on the pod template or in spec.workloads.exclude",
			GenerateName(item), api.InjectAnnotation)
		return
	}
	id, err := api.WorkloadID(m.TrustDomain, w.Namespace, strings.ToLower(w.Kind), w.Name)
	if err != nil {
		r.ErrorIn(item, "metadata.name", "cannot be part of a SPIFFE ID: %v", err)
		return
	}
	w.ID = id
	if other := m.seen[id]; other != nil {
		refuseTwin(w, other, r)
		return
	}
	m.seen[id] = w
	m.Workloads = append(m.Workloads, w)
}

// refuseTwin refuses a workload whose identity another one has.
func refuseTwin(w, other *Workload, r *report.Report) {
	switch {
	case w.Node == other.Node:
		r.ErrorIn(w.Node, FieldPath(w.TemplatePath), "would be the workload %q, and so would %s. Give the entries of a list names that differ, or leave one out of the mesh (%s: disabled)",
			w.Name, FieldPath(other.TemplatePath), api.InjectAnnotation)
	case Key(other.Object) == Key(w.Object):
		r.ErrorIn(w.Node, "metadata.name", "stands twice in the input%s%s", r.Where(", first in", other.Node), PatchWay(w.Node, r))
	default: // kinds of one name in two API groups, or in another case; or a suffix that makes it another's name
		r.ErrorIn(w.Node, "metadata.name", "would have the identity %s, and so would %s %s of %s%s. Rename one of the two, or leave one out of the mesh (%s: disabled)",
			w.ID, other.Object.Kind, other.Object.Name, other.Object.APIVersion, r.Where(" in", other.Node), api.InjectAnnotation)
	}
}

// checkName tells whether a workload of an item, by default of the item's own name, can have an identity; else that is
// said.
func checkName(item *yaml.RNode, name string, r *report.Report) bool {
	// what generateName will make nobody knows; whether the workload needs a name is seen later
	name, namespace := cmp.Or(name, item.GetName(), strings.TrimRight(GenerateName(item), "-.")), NamespaceOf(item)
	if name == "" {
		r.ErrorIn(item, "metadata.name", "is missing; an identity needs a name%s", PatchWay(item, r))
		return false
	}
	if bad := badName(validation.IsDNS1123Subdomain(name), namespace); bad != "" {
		r.ErrorIn(item, bad, "%q in namespace %q: Kubernetes accepts no such name", name, namespace)
		return false
	}
	return true
}

// GenerateName is what the API server begins a name with.
func GenerateName(item *yaml.RNode) string {
	return node.Scalar(item.YNode(), "metadata", "generateName")
}

func (m *Model) readWorkload(item *yaml.RNode, t Template, r *report.Report) *Workload {
	w := &Workload{Node: item, Object: report.ObjectOf(item), Kind: item.GetKind(), Name: t.Name, Namespace: NamespaceOf(item), TemplatePath: t.Path}
	if !checkName(item, t.Name, r) {
		return nil
	}
	if w.Template().Kind != yaml.MappingNode {
		r.ErrorIn(item, t.Field(), "is missing or no mapping%s", PatchWay(item, r))
		return nil
	}
	pod, ok := decode[corev1.PodTemplateSpec](yaml.NewRNode(w.Template()), item, t.Field(), r)
	if !ok {
		return nil
	}
	w.Pod = pod
	if len(pod.Spec.Containers) == 0 {
		r.ErrorIn(item, w.Field("spec.containers"), "is empty%s", PatchWay(item, r))
		return nil
	}
	if field := lacksImage(w); field != "" {
		r.ErrorIn(item, field, "is missing%s", PatchWay(item, r))
		return nil
	}
	refuseLabel(w, r)
	w.Overrides, ok = m.readOverrides(w, r)
	if !checkContainerPorts(w, r) || !ok {
		return nil
	}
	return w
}

// lacksImage is the field of the first container without an image, which no pod may have; "" where there is none.
// Controllers of other kinds may fill it in.
func lacksImage(w *Workload) string {
	missing := func(c corev1.Container) bool { return c.Image == "" }
	switch spec := &w.Pod.Spec; {
	case !slices.ContainsFunc(spec.InitContainers, missing) && !slices.ContainsFunc(spec.Containers, missing):
		return "" // most often; the fields cost memory
	case !kubernetesGroups[groupOf(w.Node)]:
		return ""
	}
	for field, c := range w.Containers() {
		if missing(c) {
			return field + ".image"
		}
	}
	return ""
}

// kubernetesGroups are the API groups of the workloads of Kubernetes itself.
var kubernetesGroups = map[string]bool{"": true, "apps": true, "batch": true}

// badName is the field of the name or the namespace that Kubernetes refuses, by what it says of the name; "" when both
// are right.
func badName(mistakes []string, namespace string) string {
	switch {
	case len(mistakes) > 0:
		return "metadata.name"
	case len(validation.IsDNS1123Label(namespace)) > 0:
		return "metadata.namespace"
	}
	return ""
}

// selected applies spec.workloads.
func (m *Model) selected(w *Workload) bool {
	s := m.Spec.Workloads
	matches := func(selector v1alpha1.Selector) bool { return Matches(selector, w) }
	return (len(s.Include) == 0 || slices.ContainsFunc(s.Include, matches)) && !slices.ContainsFunc(s.Exclude, matches)
}

// Matches tells whether every field of a validated selector that is set matches the workload. The name of an object
// stands for each of its templates.
func Matches(s v1alpha1.Selector, w *Workload) bool {
	if s.Kind != "" && !strings.EqualFold(s.Kind, w.Kind) || !matchesGlob(s.Namespace, w.Namespace) ||
		!matchesGlob(s.Name, w.Name) && !matchesGlob(s.Name, w.Object.Name) {
		return false
	}
	if s.LabelSelector == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(s.LabelSelector)
	return err == nil && selector.Matches(labels.Set(w.Pod.Labels))
}

// matchesGlob tells whether a glob matches; the empty one matches everything, a malformed one nothing.
func matchesGlob(glob, text string) bool {
	if glob == "" {
		return true
	}
	ok, err := path.Match(glob, text)
	return err == nil && ok
}
