package inject

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// kubectlDefault is the annotation by which kubectl chooses a container for logs and exec; without it, it takes the
// first.
const kubectlDefault = "kubectl.kubernetes.io/default-container"

// place puts init container and sidecar into the order that the form of the sidecar needs. Native: before everything,
// so that later init containers have the mesh. Container: the redirect is made last of all init containers, as nothing
// stands behind it before the containers start; the proxy is the first of these, and the kubelet starts the next one
// only after its postStart hook.
func place(m *manifest.Model, w *manifest.Workload, shared *node.Shared, spec *yaml.Node) {
	initContainer, proxyContainer := shared.Of(initContainer(m, w)), shared.Of(proxyContainer(m, w))
	inits := node.Sequence(spec, "initContainers")
	if m.Spec.Sidecar.Mode == v1alpha1.NativeSidecar {
		inits.Content = append([]*yaml.Node{initContainer, proxyContainer}, inits.Content...)
		return
	}
	inits.Content = append(inits.Content, initContainer)
	containers := node.Sequence(spec, "containers")
	containers.Content = append([]*yaml.Node{proxyContainer}, containers.Content...)
}

// hooks are the lifecycle hooks of a sidecar that is a plain container.
func hooks(w *manifest.Workload) *yaml.Node {
	run := func(args []string) *yaml.Node {
		return node.Object("exec", node.Object("command", append([]string{podplan.ProxyBinary}, args...)))
	}
	return node.Object("postStart", run(podplan.WaitArgs{Timeout: podplan.DefaultWaitTimeout}.Args()), "preStop", run(drainArgs(w).Args()))
}

// drainArgs divides what drainTimeout leaves of the pod's grace period: the preStop hook is part of it.
func drainArgs(w *manifest.Workload) podplan.DrainArgs {
	total := drainTimeout(w)
	if total == 0 {
		total = podplan.DefaultDrainTimeout
	}
	delay := min(podplan.DefaultDrainDelay, total/4)
	return podplan.DrainArgs{Delay: delay, Timeout: total - delay}
}

// checkContainerMode says what a sidecar that is a plain container cannot do.
func checkContainerMode(w *manifest.Workload, r *report.Report) {
	for i, c := range w.Pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			r.Error(w.Object, w.Field(fmt.Sprintf("spec.initContainers[%d].restartPolicy", i)), "container %q is a native sidecar, which would start before the proxy and open connections "+
				"in the clear; a cluster that knows native sidecars runs the proxy as one too: set spec.sidecar.mode: Native, or make it one of containers", c.Name)
		}
	}
	endless := w.Pod.Spec.RestartPolicy == "" || w.Pod.Spec.RestartPolicy == corev1.RestartPolicyAlways
	if !endless || slices.Contains([]string{"Job", "CronJob"}, w.Kind) {
		r.Warn(w.Object, w.Field("spec.containers"), "will not end by itself: with spec.sidecar.mode: Container the proxy keeps running when the app has ended, and the pod with it. "+
			"Set spec.sidecar.mode: Native (Kubernetes 1.29 and later); or let the app POST to http://127.0.0.1:%d/quit when it is done; or leave it out of the mesh with the annotation %s: disabled",
			api.AdminPort, api.InjectAnnotation)
	}
}

// setDefaultContainer makes kubectl choose the app and not the proxy, where nobody has chosen. The annotation of ours
// tells Strip whose choice it was.
func setDefaultContainer(annotations *yaml.Node, w *manifest.Workload) {
	if node.Index(annotations, kubectlDefault) < 0 {
		node.Set(annotations, kubectlDefault, node.Text(w.Pod.Spec.Containers[0].Name))
		node.Set(annotations, api.DefaultAnnotation, node.Text(w.Pod.Spec.Containers[0].Name))
	}
}

// dropDefaultContainer undoes setDefaultContainer; a choice that was edited since is the user's.
func dropDefaultContainer(annotations *yaml.Node) {
	ours, now := node.Get(annotations, api.DefaultAnnotation), node.Get(annotations, kubectlDefault)
	if ours != nil && now != nil && ours.Value == now.Value {
		node.Drop(annotations, kubectlDefault)
	}
}
