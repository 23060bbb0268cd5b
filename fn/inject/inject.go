// Package inject edits pod templates: Strip takes out what an earlier injection put in, Apply puts it in anew. Edits
// are made on YAML nodes, so that comments, order, quotes and unknown fields of everything else survive. The package
// sees names of Secrets only, never keys.
package inject

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// kubectlDefault is the annotation by which kubectl chooses a container for logs and exec; without it, it takes the
// first.
const kubectlDefault = "kubectl.kubernetes.io/default-container"

// Apply writes a plan into a pod template, which must be stripped: init container, sidecar, volume, label and
// annotations; and it points the handlers of the app to the proxy. Pod is what the template says. What is the same in
// many workloads is one node of shared, so nothing of ours must be changed afterwards but taken out whole. A handler
// that cannot be edited is handed to refuse, with its field below the template.
func Apply(template *yaml.Node, pod *corev1.PodTemplateSpec, p *podplan.Plan, shared *node.Shared, refuse func(field string, err error)) error {
	spec := node.Get(template, "spec")
	if spec == nil || spec.Kind != yaml.MappingNode {
		return errors.New("is no mapping")
	}
	original, err := podspec.RewriteHandlers(spec, &pod.Spec, p.Workload.Handlers, refuse)
	if err != nil {
		return err
	}
	parts, err := podspec.Write(p)
	if err != nil {
		return err
	}
	empty, err := emptyValues(template, resolverSpots(spec, parts.Resolver))
	if err != nil {
		return err
	}
	original += empty // each is a mapping, and they have no key in common
	if parts.Resolver != nil {
		original += placeResolver(spec, &pod.Spec, parts.Resolver, p.Native, shared)
	}
	place(spec, parts, p.Native, shared)
	metadata := node.Child(template, "metadata")
	labels := node.Child(metadata, "labels")
	node.Set(labels, api.PackageLabel, node.Text(parts.Package))
	if parts.Direct != "" {
		node.Set(labels, api.DirectLabel, node.Text(parts.Direct))
	}
	annotations := node.Child(metadata, "annotations")
	node.Set(annotations, api.WorkloadAnnotation, node.Literal(parts.Annotation))
	if original != "" {
		node.Set(annotations, api.OriginalAnnotation, node.Literal(original))
	}
	if !p.Native {
		setDefaultContainer(annotations, pod.Spec.Containers[0].Name)
	}
	return nil
}

// place puts the parts into the order that the form of the sidecar needs. Native: before everything, so that later init
// containers have the mesh. Container: the redirect is made last of all init containers, as nothing stands behind it
// before the containers start; the proxy is the first of these, and the kubelet starts the next one only after its
// postStart hook.
func place(spec *yaml.Node, parts podspec.Parts, native bool, shared *node.Shared) {
	initContainer, proxyContainer := shared.Of(parts.Init), shared.Of(parts.Proxy)
	inits := node.Sequence(spec, "initContainers")
	if native {
		inits.Content = append([]*yaml.Node{initContainer, proxyContainer}, inits.Content...)
	} else {
		inits.Content = append(inits.Content, initContainer)
		containers := node.Sequence(spec, "containers")
		containers.Content = append([]*yaml.Node{proxyContainer}, containers.Content...)
	}
	volumes := node.Sequence(spec, "volumes")
	volumes.Content = append(volumes.Content, shared.Of(parts.Volume))
	if parts.Resolver != nil {
		volumes.Content = append(volumes.Content, shared.Of(parts.Resolver.Volume))
		addSysctl(spec, parts.Resolver, shared)
	}
}

// setDefaultContainer makes kubectl choose the app and not the proxy, where nobody has chosen. The annotation of ours
// tells Strip whose choice it was.
func setDefaultContainer(annotations *yaml.Node, app string) {
	if node.Index(annotations, kubectlDefault) < 0 {
		node.Set(annotations, kubectlDefault, node.Text(app))
		node.Set(annotations, api.DefaultAnnotation, node.Text(app))
	}
}

// dropDefaultContainer undoes setDefaultContainer; a choice that was edited since is the user's.
func dropDefaultContainer(annotations *yaml.Node) {
	ours, now := node.Get(annotations, api.DefaultAnnotation), node.Get(annotations, kubectlDefault)
	if ours != nil && now != nil && ours.Value == now.Value {
		node.Drop(annotations, kubectlDefault)
	}
}
