package manifest

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// foreignSidecars are the containers of other meshes: two redirects in one pod fight over every connection.
var foreignSidecars = map[string]string{
	"istio-proxy": "Istio", "istio-init": "Istio", "linkerd-proxy": "Linkerd", "linkerd-init": "Linkerd",
	"consul-dataplane": "Consul", "kuma-sidecar": "Kuma", "kuma-init": "Kuma",
}

// foreignRequests are the annotations and labels by which a pod asks another mesh for injection.
var foreignRequests = map[string]string{
	"sidecar.istio.io/inject": "true", "linkerd.io/inject": "enabled",
	"consul.hashicorp.com/connect-inject": "true", "kuma.io/sidecar-injection": "enabled",
}

// checkPod refuses pods that cannot be in the mesh as they are.
func (m *Model) checkPod(w *Workload, r *report.Report) {
	if w.Pod.Spec.OS != nil && w.Pod.Spec.OS.Name == corev1.Windows {
		r.Error(w.Object, w.Field("spec.os.name"), "a Windows pod cannot be redirected; set the annotation %s: disabled", api.InjectAnnotation)
	}
	if s := w.Pod.Spec.SecurityContext; s != nil {
		m.checkUser(w, w.Field("spec.securityContext.runAsUser"), "the pod", s.RunAsUser, r)
	}
	for _, key := range slices.Sorted(maps.Keys(foreignRequests)) {
		if want := foreignRequests[key]; w.Pod.Annotations[key] == want || w.Pod.Labels[key] == want {
			r.Error(w.Object, w.Field("metadata"), "%s: %s asks another mesh for its sidecar; remove it", key, want)
		}
	}
	if both := w.Overrides.ProxyProtocolPorts.Intersect(m.ExcludedInbound(w)); len(both) > 0 {
		r.Error(w.Object, w.Field("metadata.annotations["+api.ProxyProtocolPortsAnnotation+"]"), "port %s never passes the proxy, which would write the header: it is excluded (%s, or "+
			"spec.inbound.excludePorts of the config). Take it out of one of the two", both, api.ExcludeInboundPortsAnnotation)
	}
	if err := w.Overrides.ExcludeOutboundUIDs.Validate(m.Spec.Sidecar.UID); err != nil {
		r.Error(w.Object, w.Field("metadata.annotations["+api.ExcludeOutboundUIDsAnnotation+"]"), "%v", err)
	}
	checkProcesses(w, r)
	m.checkContainers(w, "spec.initContainers", w.Pod.Spec.InitContainers, r)
	m.checkContainers(w, "spec.containers", w.Pod.Spec.Containers, r)
	for i, v := range w.Pod.Spec.Volumes {
		if v.Name == api.VolumeName {
			r.Error(w.Object, w.Field(fmt.Sprintf("spec.volumes[%d].name", i)), "%q is the name of the volume that is injected; rename yours", v.Name)
		}
	}
}

func (m *Model) checkContainers(w *Workload, field string, containers []corev1.Container, r *report.Report) {
	for i, c := range containers {
		at := w.Field(fmt.Sprintf("%s[%d]", field, i))
		if mesh := foreignSidecars[c.Name]; mesh != "" {
			r.Error(w.Object, at+".name", "container %q is %s's; a pod can be in one mesh only", c.Name, mesh)
		}
		if s := c.SecurityContext; s != nil {
			m.checkUser(w, at+".securityContext.runAsUser", fmt.Sprintf("container %q", c.Name), s.RunAsUser, r)
			if canRewrite(s) {
				r.Warn(w.Object, at+".securityContext", "container %q may change the pod's network rules (privileged, or NET_ADMIN), so it can bypass the proxy", c.Name)
			}
		}
		if held := evasive(w, c.SecurityContext); len(held) > 0 {
			r.Warn(w.Object, at+".securityContext", "container %q may have %s, with which it can bypass the proxy; write capabilities: {drop: [ALL]} and add what it needs, or run it as another user than root, "+
				"and allowPrivilegeEscalation: false with either", c.Name, enumerate(held))
		}
		for j, p := range c.Ports {
			if slices.Contains(api.ReservedPorts, int(p.ContainerPort)) {
				r.Error(w.Object, fmt.Sprintf("%s.ports[%d].containerPort", at, j), "container %q uses port %d, which is the proxy's; choose another", c.Name, p.ContainerPort)
			}
		}
	}
}

// checkUser refuses the proxy's user for anyone else: that user's traffic leaves the pod unredirected, and in the
// clear.
func (m *Model) checkUser(w *Workload, field, who string, uid *int64, r *report.Report) {
	if uid != nil && *uid == m.Spec.Sidecar.UID {
		r.Error(w.Object, field, "%s runs as uid %d, which is the proxy's; set spec.sidecar.uid", who, *uid)
	}
}
