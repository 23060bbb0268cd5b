// Package lint checks what a render cannot make safe. It refuses pods that cannot be in the mesh as they are. It warns
// of what bypasses the proxy, and of clients that the proxy refuses. It reads the model and changes nothing.
package lint

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// ForeignSidecars are the containers of other meshes, by name: two redirects in one pod fight over every connection.
var ForeignSidecars = map[string]string{
	"istio-proxy": "Istio", "istio-init": "Istio", "linkerd-proxy": "Linkerd", "linkerd-init": "Linkerd",
	"consul-dataplane": "Consul", "kuma-sidecar": "Kuma", "kuma-init": "Kuma",
}

// Check reports what is wrong with the workloads of the mesh and with the ways that lead to them.
func Check(m *manifest.Model, r *report.Report) {
	for _, w := range m.Workloads {
		checkPod(w, r)
	}
	warnClasses(m, r)
	Surroundings(m, r)
	checkIncludes(m, r)
	checkRedirect(m, r)
}

// Surroundings reports what concerns the workloads of the mesh and that rendered manifests show as well: clients that
// are refused, other meshes, and what the cluster does with the pods.
func Surroundings(m *manifest.Model, r *report.Report) {
	for _, w := range m.Workloads {
		warnWishes(w, r)
		warnDNS(w, r)
		warnNoRedirect(m, w, r)
		warnRuntime(m, w, r)
	}
	checkInjection(m, r)
	warnForeignPolicies(m, r)
	warnPodResources(m, r)
	warnQuotas(m, r)
	warnLimitRanges(m, r)
	warnHostPorts(m, r)
	warnExposed(m, r)
	warnPlaintextPorts(m, r)
	checkCallers(m, r)
}

// checkIncludes reports selectors of the config that select nothing: most often a mistyped name. With none that
// selects, nothing would be left in the mesh, and every certificate would go.
func checkIncludes(m *manifest.Model, r *report.Report) {
	all := slices.Concat(m.Workloads, m.Outside)
	for i, selector := range m.Spec.Workloads.Include {
		if !slices.ContainsFunc(all, func(w *manifest.Workload) bool { return manifest.Matches(selector, w) }) {
			r.Error(r.Config(), fmt.Sprintf("spec.workloads.include[%d]", i), "selects no workload of the input%s", manifest.Candidates(selector, all))
		}
	}
	for i, selector := range m.Spec.Workloads.Exclude {
		switch {
		case slices.ContainsFunc(all, func(w *manifest.Workload) bool { return manifest.Matches(selector, w) }):
		case selector.Name == "": // a rule for every package, like one of namespaces
			r.Warn(r.Config(), fmt.Sprintf("spec.workloads.exclude[%d]", i), "selects no workload of the input%s", manifest.Candidates(selector, all))
		default:
			r.Error(r.Config(), fmt.Sprintf("spec.workloads.exclude[%d]", i), "selects no workload of the input, and whom it means is in the mesh%s", manifest.Candidates(selector, all))
		}
	}
	if len(m.Spec.Workloads.Include) > 0 && len(m.Workloads) == 0 && len(m.Outside) > 0 {
		r.Error(r.Config(), "spec.workloads.include", "selects no workload that can be in the mesh, so every certificate would be removed; names are those after namePrefix. "+
			"To take all out of the mesh on purpose, write spec.workloads.exclude")
	}
}

// checkPod refuses pods that cannot be in the mesh as they are.
func checkPod(w *manifest.Workload, r *report.Report) {
	if s := w.Pod.Spec.SecurityContext; s != nil {
		checkUser(w, w.Field("spec.securityContext.runAsUser"), "the pod", s.RunAsUser, r)
	}
	checkPlan(w, r)
	if ports := w.Overrides.TransparentPorts; len(ports) > 0 && !w.Plan.NoRedirect() {
		r.Info(w.Object, w.Field(report.Annotation(api.TransparentPortsAnnotation)), "lets every process of the pod send IPv4 packets from addresses that are not the pod's, which otherwise takes NET_RAW: "+
			"its TCP passes the proxy all the same, its UDP is the network's to check")
	}
	if !w.Plan.Native {
		checkContainerMode(w, r)
	}
	if err := w.Overrides.ExcludeOutboundUIDs.Validate(int64(w.Plan.Redirect.ProxyUID)); err != nil {
		r.Error(w.Object, w.Field(report.Annotation(api.ExcludeOutboundUIDsAnnotation)), "%v", err)
	}
	checkProcesses(w, r)
	checkNoRedirect(w, r)
	for field, c := range w.Containers() {
		checkContainer(w, field, c, r)
	}
	if len(w.Pod.Spec.EphemeralContainers) > 0 {
		r.Error(w.Object, w.Field("spec.ephemeralContainers"), "are in no template: the API server refuses the pod. Take them out; kubectl debug adds them to pods that run")
	}
	for i, v := range w.Pod.Spec.Volumes {
		if v.Name == api.VolumeName || v.Name == api.ResolverVolume {
			r.Error(w.Object, w.Field(fmt.Sprintf("spec.volumes[%d].name", i)), "%q is the name of the volume that is injected; rename yours", v.Name)
		}
	}
}

// checkPlan refuses what a workload is told where it contradicts itself, or where its containers could not live.
func checkPlan(w *manifest.Workload, r *report.Report) {
	wrong := new(podplan.Contradiction)
	switch err := w.Plan.Validate(); {
	case errors.As(err, &wrong):
		r.Error(w.Object, w.Field(report.Annotation(wrong.Annotation)), "%v", wrong)
	case err != nil:
		r.Error(w.Object, w.Field("spec"), "%v", err)
	default:
		if err := podspec.Validate(w.Plan); err != nil {
			r.Error(w.Object, w.Field("spec"), "%v; raise it in spec.proxy.resources or spec.init.resources of the config, or in the annotation %s", err, api.ProxyMemoryAnnotation)
		}
	}
}

func checkContainer(w *manifest.Workload, field string, c corev1.Container, r *report.Report) {
	if mesh := ForeignSidecars[c.Name]; mesh != "" {
		r.Error(w.Object, field+".name", "container %q is %s's; a pod can be in one mesh only", c.Name, mesh)
	}
	if s := c.SecurityContext; s != nil {
		checkUser(w, field+".securityContext.runAsUser", fmt.Sprintf("container %q", c.Name), s.RunAsUser, r)
		if canRewrite(s) && !w.Plan.NoRedirect() {
			r.Warn(w.Object, field+".securityContext", "container %q may change the pod's network rules (privileged, or NET_ADMIN), so it can bypass the proxy", c.Name)
		}
	}
	if held := bypasses(w, c.SecurityContext); len(held) > 0 && !w.Plan.NoRedirect() {
		r.Warn(w.Object, field+".securityContext", "container %q may have %s, with which it can bypass the proxy; write capabilities: {drop: [ALL]} and add what it needs, "+
			"or run it as another user than root, and allowPrivilegeEscalation: false with either", c.Name, enumerate(held))
	}
	for i, p := range c.Ports {
		if manifest.IsTCP(p.Protocol) && slices.Contains(api.ReservedPorts, int(p.ContainerPort)) {
			r.Error(w.Object, fmt.Sprintf("%s.ports[%d].containerPort", field, i), "container %q uses port %d, which is the proxy's; choose another", c.Name, p.ContainerPort)
		}
	}
}

// checkUser refuses the proxy's user for anyone else: that user's traffic leaves the pod unredirected, and in the
// clear.
func checkUser(w *manifest.Workload, field, who string, uid *int64, r *report.Report) {
	if uid != nil && *uid == int64(w.Plan.Redirect.ProxyUID) {
		r.Error(w.Object, field, "%s runs as uid %d, which is the proxy's; set spec.sidecar.uid", who, *uid)
	}
}
