package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"path"
	"slices"
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
	Kind, Name   string      // Kind as in the manifest
	Namespace    string      // "default" where the manifest has none
	ID           spiffeid.ID // zero for workloads outside the mesh
	TemplatePath []string    // of the pod template in Node; empty for a Pod
	Pod          corev1.PodTemplateSpec
	Overrides    Overrides
	// what its pods are told; nil for workloads outside the mesh
	Plan     *podplan.Plan
	Services []*Service // that select it
}

// SecretName is the name of the workload's Secret. Names that would be too long for Kubernetes end in a digest instead.
func (w *Workload) SecretName() string { return w.objectName(api.NamePrefix) }

// ManagedSecretName is the Secret that cert-manager writes. It is not that of SecretName: the two are of different
// types, and Kubernetes lets nobody change the type of a Secret, so a change of the issuer would end in an error of the
// API server.
func (w *Workload) ManagedSecretName() string { return w.objectName(api.NamePrefix + "tls-") }

func (w *Workload) objectName(prefix string) string {
	const limit = 253
	name := prefix + strings.ToLower(w.Kind) + "-" + w.Name
	if len(name) <= limit {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:limit-17] + "-" + hex.EncodeToString(sum[:8])
}

// Field is the path of a field of the pod template, for messages: Field("spec.hostNetwork") is
// spec.template.spec.hostNetwork for a Deployment.
func (w *Workload) Field(below string) string {
	return strings.Join(append(slices.Clone(w.TemplatePath), below), ".")
}

// Template is the pod template in Node, or nil.
func (w *Workload) Template() *yaml.Node { return node.Get(w.Node.YNode(), w.TemplatePath...) }

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

// Port resolves a named port of the pod; 0 when no container has it.
func (w *Workload) Port(name string) uint16 {
	for _, c := range w.Containers() {
		for _, p := range c.Ports {
			if p.Name == name && (p.Protocol == corev1.ProtocolTCP || p.Protocol == "") {
				return uint16(p.ContainerPort)
			}
		}
	}
	return 0
}

// addWorkload reads one workload and decides whether it is in the mesh.
func (m *Model) addWorkload(item *yaml.RNode, r *report.Report) {
	w := m.readWorkload(item, r)
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
	}
	id, err := api.WorkloadID(m.TrustDomain, w.Namespace, strings.ToLower(w.Kind), w.Name)
	if err != nil {
		r.Error(w.Object, "metadata.name", "cannot be part of a SPIFFE ID: %v", err)
		return
	}
	if m.seen[id] {
		r.Error(w.Object, "metadata.name", "stands twice in the input")
		return
	}
	m.seen[id] = true
	w.ID = id
	m.Workloads = append(m.Workloads, w)
}

func (m *Model) readWorkload(item *yaml.RNode, r *report.Report) *Workload {
	p, _ := m.kinds.TemplatePath(item)
	w := &Workload{Node: item, Object: report.ObjectOf(item), Kind: item.GetKind(), Name: item.GetName(),
		Namespace: NamespaceOf(item), TemplatePath: p}
	if w.Name == "" {
		r.Error(w.Object, "metadata.name", "is missing; an identity needs a name (generateName makes a new one at every apply)")
		return nil
	}
	if bad := badName(validation.IsDNS1123Subdomain(w.Name), w.Namespace); bad != "" {
		r.Error(w.Object, bad, "%q in namespace %q: Kubernetes accepts no such name", w.Name, w.Namespace)
		return nil
	}
	template, err := item.Pipe(yaml.Lookup(p...))
	if err != nil || template == nil {
		r.Error(w.Object, strings.Join(p, "."), "is missing or no mapping")
		return nil
	}
	pod, ok := decode[corev1.PodTemplateSpec](template, w.Object, strings.Join(p, "."), r)
	if !ok {
		return nil
	}
	w.Pod = pod
	if len(p) > 0 {
		refuseStrayAnnotations(item, r)
	}
	if len(pod.Spec.Containers) == 0 {
		r.Error(w.Object, w.Field("spec.containers"), "is empty")
		return nil
	}
	refuseLabel(w, r)
	w.Overrides, ok = m.readOverrides(w, r)
	if !checkContainerPorts(w, r) || !ok {
		return nil
	}
	return w
}

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

// Matches tells whether every field of a validated selector that is set matches the workload.
func Matches(s v1alpha1.Selector, w *Workload) bool {
	if s.Kind != "" && !strings.EqualFold(s.Kind, w.Kind) || !matchesGlob(s.Namespace, w.Namespace) || !matchesGlob(s.Name, w.Name) {
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
