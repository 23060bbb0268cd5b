package lint

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

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
