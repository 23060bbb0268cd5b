package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// Declaration is a declared workload: what no plan says of it. Its policy carries it, with its pod template, in
// api.DeclaredAnnotation, so that whoever reads rendered manifests without the config sees a workload like any other.
type Declaration struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Selector metav1.LabelSelector       `json:"selector"`
	Services []v1alpha1.DeclaredService `json:"services,omitempty"`
	// ResourceDefaults are those of our containers that have the resources of the render's defaults. A pod that has
	// resources as a whole shares them out itself, so there they are left out.
	ResourceDefaults []string `json:"resourceDefaults,omitempty"`
	// StorageDefaults are those that the config gives no resources. Beside a limit of ephemeral storage of another
	// container they get StorageLimit.
	StorageDefaults []string `json:"storageDefaults,omitempty"`
	// Guaranteed is, by name, what our containers ask for in a pod that is Guaranteed without them and is to stay so.
	Guaranteed map[string]DeclaredResources `json:"guaranteed,omitempty"`
	Template   *corev1.PodTemplateSpec      `json:"template"`

	Node *yaml.RNode `json:"-"` // the text that says it, with TemplatePath
	// Overrides are the annotations that the config declares.
	Overrides map[string]string `json:"-"`
}

// DeclaredResources are podplan.Resources in a Declaration.
type DeclaredResources struct {
	Requests map[string]string `json:"requests,omitempty"`
	Limits   map[string]string `json:"limits,omitempty"`
}

// declaredTemplate is where a Declaration keeps its pod template.
var declaredTemplate = []string{"template"}

// DeclaredContainer stands in the template for all containers that the pods will have.
const DeclaredContainer = "app"

// declaredField is where the config has the declared workloads.
const declaredField = "spec.workloads.declared"

// PolicyAPIVersion is that of the policies by which pods are injected when they are made.
const PolicyAPIVersion = "admissionregistration.k8s.io/v1"

// PolicyKinds are the kinds of the objects that inject the pods of one declared workload, the first of which carries
// the declaration.
var PolicyKinds = []string{"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}

// IsPolicy tells whether an item is of a kind by which pods are injected when they are made.
func IsPolicy(item *yaml.RNode) bool {
	return item.GetApiVersion() == PolicyAPIVersion && slices.Contains(PolicyKinds, item.GetKind())
}

// IsPolicyGroup tells whether an apiVersion is of the group of the policies, whose objects belong to no namespace.
func IsPolicyGroup(apiVersion string) bool {
	return groupIn(apiVersion) == groupIn(PolicyAPIVersion)
}

// PolicyName is the name of the policies of a declared workload. They belong to no namespace, so the name holds it.
// Dots join the parts, since none but the last can have one: with dashes, those of another package or namespace could
// have the same name, and whichever is applied last would count.
func (w *Workload) PolicyName(pkg string) string {
	return w.objectNamed(api.NamePrefix + strings.Join([]string{pkg, w.Namespace, strings.ToLower(w.Kind), w.Name}, "."))
}

// ReadDeclaration reads what a policy of ours carries; nil where the item is no such policy.
func ReadDeclaration(item *yaml.RNode) (*Declaration, error) {
	text, carries := item.GetAnnotations()[api.DeclaredAnnotation]
	if !carries || !IsPolicy(item) || item.GetKind() != PolicyKinds[0] {
		return nil, nil
	}
	n, err := yaml.Parse(text)
	if err == nil {
		err = node.CheckItem(n)
	}
	d := &Declaration{Node: n}
	if err == nil {
		err = node.Decode(n, d)
	}
	if err == nil && (d.Template == nil || d.Kind == "" || d.Metadata.Name == "" || d.Metadata.Namespace == "") {
		err = fmt.Errorf("lacks kind, metadata or template")
	}
	if err != nil {
		return nil, fmt.Errorf("is damaged; render again: %w", err)
	}
	d.Overrides = overridesIn(d.Template.Annotations)
	return d, nil
}

// PodTemplate is where Node has the pod template.
func (d *Declaration) PodTemplate() Template {
	return Template{Path: declaredTemplate, Name: d.Metadata.Name}
}

// Object names the declared workload.
func (d *Declaration) Object() report.Object {
	return report.Object{Kind: d.Kind, Namespace: d.Metadata.Namespace, Name: d.Metadata.Name}
}

// Is tells whether an item is what makes the pods of the declared workload, such as the operator's own object.
func (d *Declaration) Is(item *yaml.RNode) bool {
	return strings.EqualFold(item.GetKind(), d.Kind) && item.GetName() == d.Metadata.Name && NamespaceOf(item) == d.Metadata.Namespace
}

// CoreServices are the Services that the operator makes. The annotation says to whom they lead.
func (d *Declaration) CoreServices() (list []corev1.Service) {
	for _, s := range d.Services {
		service := corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: d.Metadata.Namespace,
			Annotations: map[string]string{api.WorkloadsAnnotation: strings.ToLower(d.Kind) + "/" + d.Metadata.Name}}}
		for _, p := range s.Ports {
			service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Name: p.Name, Port: p.Port, TargetPort: p.TargetPort, Protocol: corev1.ProtocolTCP})
		}
		list = append(list, service)
	}
	return list
}

func overridesIn(annotations map[string]string) map[string]string {
	overrides := map[string]string{}
	for key, value := range annotations {
		if slices.Contains(api.Overrides, strings.TrimPrefix(key, api.AnnotationPrefix)) && strings.HasPrefix(key, api.AnnotationPrefix) {
			overrides[key] = value
		}
	}
	return overrides
}

// addDeclared adds the declared workloads of the config, behind those of the items.
func (m *Model) addDeclared(r *report.Report) {
	said := false
	for i, d := range m.Spec.Workloads.Declared {
		w := m.readDeclared(d, fmt.Sprintf("%s[%d]", declaredField, i), r)
		if w == nil {
			continue
		}
		id, err := api.WorkloadID(m.TrustDomain, w.Namespace, strings.ToLower(w.Kind), w.Name)
		if err != nil {
			r.Error(w.Object, w.configField+".name", "cannot be part of a SPIFFE ID: %v", err)
			continue
		}
		if other := m.seen[id]; other != nil {
			r.Error(w.Object, w.configField, "would have the identity %s, and so would %s%s. Declare it once, and no workload that is in the input", id, other.Object, r.Where(" in", other.Node))
			continue
		}
		if slices.ContainsFunc(m.Spec.Workloads.Exclude, func(s v1alpha1.Selector) bool { return Matches(s, w) }) {
			r.Error(w.Object, w.configField, "is declared, and spec.workloads.exclude takes it out: take out one of the two")
			continue
		}
		m.seen[id], w.ID = w, id
		m.Workloads = append(m.Workloads, w)
		if m.firstOf(id) && !said {
			r.Info(r.Config(), declaredField, "pods are injected when they are made, by a %s and a %s of %s: this wants Kubernetes 1.36 or later (before, `kubectl apply` says: no matches for kind). "+
				"Pods that exist are in the mesh when they have been made anew", PolicyKinds[0], PolicyKinds[2], PolicyAPIVersion)
			said = true
		}
	}
}

// firstOf tells whether no earlier render has seen a declared workload. What was said once is not said at every render.
func (m *Model) firstOf(id spiffeid.ID) bool {
	return m.State.Leaves[id.String()] == nil && m.State.Certificates[id.String()] == nil && m.State.Policies[PolicyKinds[0]][id.String()] == nil
}

// readDeclared makes a workload of an entry of the config; nil after an error.
func (m *Model) readDeclared(entry v1alpha1.DeclaredWorkload, field string, r *report.Report) *Workload {
	d := &Declaration{Kind: entry.Kind, Selector: entry.Selector, Services: entry.Services, Overrides: entry.Annotations}
	d.Metadata.Name, d.Metadata.Namespace = entry.Name, entry.Namespace
	w := &Workload{Object: d.Object(), Kind: entry.Kind, Name: entry.Name, Namespace: entry.Namespace, TemplatePath: declaredTemplate, Declaration: d, configField: field}
	w.Pod.Labels, w.Pod.Annotations = selectedLabels(entry.Selector), entry.Annotations
	app := corev1.Container{Name: DeclaredContainer}
	for _, p := range entry.Ports {
		app.Ports = append(app.Ports, corev1.ContainerPort{Name: p.Name, ContainerPort: p.Port})
	}
	w.Pod.Spec.Containers = []corev1.Container{app}
	refuseLabel(w, r)
	var good bool
	if w.Overrides, good = m.readOverrides(w, r); !checkContainerPorts(w, r) || !good {
		return nil
	}
	d.ResourceDefaults, d.StorageDefaults = m.resourceDefaults(w)
	if m.QOSClass(w) == v1alpha1.QOSClassKeep {
		init, proxy := m.guaranteedResources(w)
		d.Guaranteed = map[string]DeclaredResources{api.InitName: DeclaredResources(*init), api.ProxyName: DeclaredResources(*proxy)}
	}
	d.Node = yaml.NewRNode(d.node(w.Pod))
	w.Node = d.Node
	return w
}

// resourceDefaults are those of our containers that nobody gave resources, and those that the config gave none.
func (m *Model) resourceDefaults(w *Workload) (all, storage []string) {
	if m.Spec.Init.Resources == nil {
		all, storage = append(all, api.InitName), append(storage, api.InitName)
	}
	if m.Spec.Proxy.Resources == nil {
		storage = append(storage, api.ProxyName)
		if !w.Overrides.resources() {
			all = append(all, api.ProxyName)
		}
	}
	return all, storage
}

// selectedLabels are the labels that every pod has which a selector selects.
func selectedLabels(s metav1.LabelSelector) map[string]string {
	have := map[string]string{}
	for _, e := range s.MatchExpressions {
		if e.Operator == metav1.LabelSelectorOpIn && len(e.Values) == 1 {
			have[e.Key] = e.Values[0]
		}
	}
	maps.Copy(have, s.MatchLabels)
	return have
}

// node is the text of a declaration, with a pod template that is not injected yet.
func (d *Declaration) node(pod corev1.PodTemplateSpec) *yaml.Node {
	out := node.Object("kind", d.Kind, "metadata", node.Object("name", d.Metadata.Name, "namespace", d.Metadata.Namespace), "selector", SelectorNode(d.Selector))
	if len(d.Services) > 0 {
		services := node.List()
		for _, s := range d.Services {
			services.Content = append(services.Content, node.Object("name", s.Name, "ports", servicePorts(s.Ports)))
		}
		node.Set(out, "services", services)
	}
	if len(d.ResourceDefaults) > 0 {
		node.Set(out, "resourceDefaults", node.Value(d.ResourceDefaults))
	}
	if len(d.StorageDefaults) > 0 {
		node.Set(out, "storageDefaults", node.Value(d.StorageDefaults))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Guaranteed)) {
		r := d.Guaranteed[name]
		node.Set(node.Child(out, "guaranteed"), name, node.Object("limits", textMap(r.Limits), "requests", textMap(r.Requests)))
	}
	metadata := node.Object()
	if len(pod.Annotations) > 0 {
		node.Set(metadata, "annotations", textMap(pod.Annotations))
	}
	if len(pod.Labels) > 0 {
		node.Set(metadata, "labels", textMap(pod.Labels))
	}
	app := node.Object("name", DeclaredContainer)
	if ports := pod.Spec.Containers[0].Ports; len(ports) > 0 {
		list := node.List()
		for _, p := range ports {
			port := node.Object("containerPort", p.ContainerPort)
			if p.Name != "" {
				node.Set(port, "name", node.Text(p.Name))
			}
			list.Content = append(list.Content, port)
		}
		node.Set(app, "ports", list)
	}
	node.Set(out, "template", node.Object("metadata", metadata, "spec", node.Object("containers", node.List(app))))
	return out
}

func servicePorts(ports []v1alpha1.DeclaredServicePort) *yaml.Node {
	list := node.List()
	for _, p := range ports {
		port := node.Object()
		if p.Name != "" {
			node.Set(port, "name", node.Text(p.Name))
		}
		node.Set(port, "port", node.Value(p.Port))
		if p.TargetPort.StrVal != "" {
			node.Set(port, "targetPort", node.Text(p.TargetPort.StrVal))
		} else if p.TargetPort.IntVal != 0 {
			node.Set(port, "targetPort", node.Value(p.TargetPort.IntVal))
		}
		list.Content = append(list.Content, port)
	}
	return list
}

func textMap(m map[string]string) *yaml.Node {
	out := node.Object()
	for _, key := range slices.Sorted(maps.Keys(m)) {
		node.Set(out, key, node.Text(m[key]))
	}
	return out
}

// SelectorNode is a LabelSelector as YAML, in the order of its fields.
func SelectorNode(s metav1.LabelSelector) *yaml.Node {
	out := node.Object()
	if len(s.MatchExpressions) > 0 {
		list := node.List()
		for _, e := range s.MatchExpressions {
			n := node.Object("key", e.Key, "operator", string(e.Operator))
			if len(e.Values) > 0 {
				node.Set(n, "values", node.Value(e.Values))
			}
			list.Content = append(list.Content, n)
		}
		node.Set(out, "matchExpressions", list)
	}
	if len(s.MatchLabels) > 0 {
		node.Set(out, "matchLabels", textMap(s.MatchLabels))
	}
	return out
}

// declaredPath is the field of the config for a field of a declared workload's template.
func (w *Workload) declaredPath(below string) string {
	if rest, ok := strings.CutPrefix(below, "metadata.annotations["); ok {
		return w.configField + ".annotations[" + rest
	}
	if rest, ok := strings.CutPrefix(below, "metadata.labels["); ok {
		return w.configField + ".selector.matchLabels[" + rest
	}
	return w.configField
}

// refuseAmbiguous refuses declared workloads whose selectors select pods that have another identity, and Services that
// the input has: of both, one says what is not so.
func (m *Model) refuseAmbiguous(services []corev1.Service, r *report.Report) {
	for _, w := range m.Workloads {
		if w.Declaration == nil {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(&w.Declaration.Selector)
		if err != nil {
			continue // Validate has said it
		}
		for _, other := range slices.Concat(m.Workloads, m.Outside) {
			if other == w || other.Namespace != w.Namespace || !selector.Matches(labels.Set(other.CertainLabels())) {
				continue
			}
			r.Error(w.Object, w.configField+".selector", "selects the pods of %s as well, which has a template or a declaration of its own. Narrow it, by a label that only the pods of one of the two have", other.Object)
		}
		for i, s := range w.Declaration.Services {
			if slices.ContainsFunc(services, func(have corev1.Service) bool {
				return have.Name == s.Name && EffectiveNamespace(report.Object{APIVersion: "v1", Kind: "Service", Namespace: have.Namespace}) == w.Namespace
			}) {
				r.Error(w.Object, fmt.Sprintf("%s.services[%d]", w.configField, i), "Service %q is in the input, which says more of it: take it out here, and name the workload in its annotation %s where its selector does not",
					s.Name, api.WorkloadsAnnotation)
			}
		}
	}
}

// declaredServices are the Services that the declared workloads bring.
func (m *Model) declaredServices() (list []corev1.Service) {
	for _, w := range m.Workloads {
		if w.Declaration != nil {
			list = append(list, w.Declaration.CoreServices()...)
		}
	}
	return list
}

// declares tells whether the pods that an item makes are those of a declared workload.
func (m *Model) declares(item *yaml.RNode) bool {
	return slices.ContainsFunc(m.Spec.Workloads.Declared, func(entry v1alpha1.DeclaredWorkload) bool {
		d := Declaration{Kind: entry.Kind}
		d.Metadata.Name, d.Metadata.Namespace = entry.Name, entry.Namespace
		return d.Is(item)
	})
}

// warnUnknownPods says that pods will run outside of the mesh, but for those that are declared.
func (m *Model) warnUnknownPods(item *yaml.RNode, r *report.Report) {
	if !m.declares(item) {
		m.kinds.WarnUnknownPods(item, r)
	}
}
