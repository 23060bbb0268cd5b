package admission

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// What our containers ask for depends on what the others of a pod do, where the config leaves it to the render:
// manifest.Model.containerResources in CEL. LimitRanges and defaults have been applied when a policy sees a pod.

// limitsStorage is a condition: a container of others has a limit of ephemeral storage. One that a LimitRange has given
// it does not count: the LimitRange gives ours the same when admission plugins see the pod again.
const limitsStorage = `
!variables.annotations[?"kubernetes.io/limit-ranger"].orValue("").matches("ephemeral-storage[^;]* limit for ") &&
variables.slots.exists(s, quantity(string(s.c.?resources.?limits[?"ephemeral-storage"].orValue("0"))).isGreaterThan(quantity("0")))`

// guaranteed is a condition: a pod without resources as a whole is of the class Guaranteed (podspec.QOSClass). A pod
// with such has the class that these give it.
const guaranteed = `
!has(object.spec.resources) && variables.slots.all(s, ["cpu", "memory"].all(n,
  quantity(string(s.c.?resources.?limits[?n].orValue("0"))).isGreaterThan(quantity("0")) &&
  quantity(string(s.c.?resources.?requests[?n].orValue(s.c.resources.limits[n]))).compareTo(quantity(string(s.c.resources.limits[n]))) == 0))`

// resources are the variables with what our containers ask for.
func (w *writer) resources() (list []variable) {
	if len(w.declaration.StorageDefaults) > 0 {
		list = append(list, variable{"limitsStorage", limitsStorage})
	}
	if len(w.declaration.Guaranteed) > 0 {
		list = append(list, variable{"guaranteed", guaranteed})
	}
	return append(list, w.asked...)
}

// setResources lets a variable say the resources of a container of ours, where they depend on the pod.
func (w *writer) setResources(container *yaml.Node, variableName string) error {
	name, d := node.Scalar(container, "name"), w.declaration
	usual := w.plan.Init.Resources
	if name == api.ProxyName {
		usual = w.plan.Proxy.Resources
	}
	text, err := w.byStorage(name, usual)
	if kept, has := d.Guaranteed[name]; has && err == nil {
		var other string
		other, err = w.byStorage(name, (*podplan.Resources)(&kept))
		text = fmt.Sprintf("variables.guaranteed ? (%s) :\n(%s)", other, text)
	}
	if len(d.Guaranteed) > 0 || slices.Contains(d.StorageDefaults, name) {
		w.asked = append(w.asked, variable{variableName, text})
		node.Set(container, "resources", expression("variables."+variableName))
	}
	return err
}

// byStorage is an expression for resources, with the limit of ephemeral storage where the pod has one.
func (w *writer) byStorage(name string, r *podplan.Resources) (string, error) {
	text, err := w.written(name, r)
	if err != nil || r == nil || !slices.Contains(w.declaration.StorageDefaults, name) {
		return text, err
	}
	limits := maps.Clone(r.Limits)
	if limits == nil {
		limits = map[string]string{}
	}
	limits[string(corev1.ResourceEphemeralStorage)] = manifest.StorageLimit
	limited, err := w.written(name, &podplan.Resources{Requests: r.Requests, Limits: limits})
	return fmt.Sprintf("variables.limitsStorage ? %s :\n%s", limited, text), err
}

// written is a literal of resources, as package podspec writes them.
func (w *writer) written(name string, r *podplan.Resources) (string, error) {
	p := *w.plan
	p.Init.Resources, p.Proxy.Resources = r, r
	parts, err := podspec.Write(&p)
	if err != nil {
		return "", err
	}
	container := parts.Init
	if name == api.ProxyName {
		container = parts.Proxy
	}
	return "dyn(" + asWritten(container, node.Object(), "resources") + ")", nil
}
