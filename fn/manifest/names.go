package manifest

import (
	"fmt"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// written is an object that a render writes, or that its pods count on.
type written struct {
	object report.Object
	owner  report.Object // for which it is, and whose name is in its own
	field  string        // of the owner, with that name; "" for what has the name of the package
}

// of names the object by its owner, since two that collide have one name.
func (w written) of() string { return fmt.Sprintf("the %s of %s", w.object.Kind, w.owner) }

const identitySecretField = "spec.sealing.identitySecret.name"

// written are the objects that a render writes, or that its pods count on.
func (m *Model) written(r *report.Report) (list []written) {
	add := func(apiVersion, kind, namespace, name string, owner report.Object, field string) {
		list = append(list, written{report.Object{APIVersion: apiVersion, Kind: kind, Namespace: namespace, Name: name}, owner, field})
	}
	managed := m.Spec.UsesCertManager()
	for _, namespace := range m.Namespaces() {
		add("v1", "ConfigMap", namespace, api.MeshName(m.Package), r.Config(), "")
		add("v1", "Service", namespace, api.MembersName(m.Package), r.Config(), "")
		if !managed {
			add("v1", "ConfigMap", namespace, api.BundleName(m.Package), r.Config(), "")
		}
		if name := m.Spec.Sealing.IdentitySecret.Name; name != "" {
			add("v1", "Secret", namespace, name, r.Config(), identitySecretField)
		}
	}
	for _, s := range m.Aliased() {
		add("v1", "Service", s.Namespace, api.AliasName(s.Name), s.Object, "metadata.name")
	}
	for _, w := range m.Workloads {
		if w.Declaration != nil {
			for _, kind := range PolicyKinds {
				add(PolicyAPIVersion, kind, "", w.PolicyName(m.Package), w.Object, w.configField)
			}
		}
		if w.Plan.NoRedirect() {
			add(NetworkPolicyAPIVersion, NetworkPolicyKind, w.Namespace, w.DirectPolicyName(), w.Object, "metadata.name")
		}
	}
	for _, w := range m.Workloads {
		if !w.Apart() {
			continue
		}
		add("v1", "ConfigMap", w.Namespace, w.HookMeshName(), w.Object, "metadata.name")
		if !managed {
			add("v1", "ConfigMap", w.Namespace, w.HookBundleName(), w.Object, "metadata.name")
		}
	}
	for _, w := range m.Issued() {
		if managed {
			add(ManagedAPIVersion, ManagedKind, w.Namespace, w.SecretName(), w.Object, "metadata.name")
			add("v1", "Secret", w.Namespace, w.ManagedSecretName(), w.Object, "metadata.name")
		} else {
			add("v1", "Secret", w.Namespace, w.SecretName(), w.Object, "metadata.name")
		}
	}
	return list
}

// RefuseSharedNames refuses two objects of a render that would have one name, as those of kinds Foo-bar and Foo, and a
// name that another object of the input has: whichever is applied last would count. Whether others share the authority
// must be known (ReadShared).
func (m *Model) RefuseSharedNames(items []*yaml.RNode, r *report.Report) {
	first := map[report.Object]written{}
	for _, w := range m.written(r) {
		other, taken := first[Key(w.object)]
		if !taken {
			first[Key(w.object)] = w
			continue
		}
		r.Error(w.owner, w.field, "%s would be called %q, and so would %s: kind and name are joined by dashes. Rename one of the two", w.of(), w.object.Name, other.of())
	}
	for _, item := range items {
		w, taken := first[Key(report.ObjectOf(item))]
		if taken && w.field != identitySecretField && item.GetAnnotations()[api.IdentityAnnotation] == "" && !IsLocalConfig(item) {
			r.ErrorIn(item, "metadata.name", "is the name that a render gives to %s: whichever is applied last would count. Rename yours", w.of())
		}
	}
}
