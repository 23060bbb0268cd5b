package lint

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// warnExposed warns of Services that clients outside of the mesh are meant to reach, and whose pods take mutual TLS
// only. Workloads of the mesh that dial the address of a node or of a load balancer, which no manifest holds, are
// refused like them: no proxy knows that it dials the Service.
func warnExposed(m *manifest.Model, r *report.Report) {
	for _, s := range m.Services {
		if dialed[s.Type] == "" {
			continue
		}
		for i, p := range s.Ports {
			if !manifest.IsTCP(p.Protocol) {
				continue
			}
			for _, w := range s.Workloads {
				if target := manifest.TargetPort(p, w); target != 0 && refused(m, w, target, true) {
					r.Warn(s.Object, fmt.Sprintf("spec.ports[%d]", i), "port %d is of type %s, and %s takes mutual TLS only there: clients outside of the mesh are refused, and workloads of the mesh that dial %s in place of %s.%s. %s; where that is meant, with %s: \"%d\"",
						p.Port, s.Type, w.Object, dialed[s.Type], s.Name, s.Namespace, admit(target, false), api.StrictPortsAnnotation, target)
				}
			}
		}
	}
}

// dialed is by which addresses beside its own a Service is reached.
var dialed = map[corev1.ServiceType]string{
	corev1.ServiceTypeNodePort:     "a node",
	corev1.ServiceTypeLoadBalancer: "a node or the load balancer",
}

// warnHostPorts warns of TCP ports of the node that lead to a Strict port. Others do not pass the proxy.
func warnHostPorts(m *manifest.Model, r *report.Report) {
	for _, w := range m.Workloads {
		if w.Plan.NoRedirect() {
			continue // warnClosed says that nothing comes through
		}
		for field, c := range w.Containers() {
			for i, p := range c.Ports {
				if p.HostPort != 0 && manifest.IsTCP(p.Protocol) && refused(m, w, uint16(p.ContainerPort), true) {
					r.Warn(w.Object, fmt.Sprintf("%s.ports[%d].hostPort", field, i), "hostPort %d of container %q leads to a port that takes mutual TLS only: clients outside of the mesh are refused. To admit them, set the annotation %s: \"%d\"",
						p.HostPort, c.Name, api.PermissivePortsAnnotation, p.ContainerPort)
				}
			}
		}
	}
}

// refused tells whether a port of a workload refuses clients without an identity. A port that is Strict by name is so
// on purpose.
func refused(m *manifest.Model, w *manifest.Workload, port uint16, tls bool) bool {
	if w.Plan.Workload.StrictPorts.Contains(port) {
		return false
	}
	switch w.Plan.PortMode(port, m.Spec.Inbound.Mode) {
	case podplan.PortStrict:
		return true
	case podplan.PortTLSPassthrough:
		return !tls
	}
	return false
}

// admit is the way out for clients without an identity, who speak TLS of the app's own or not.
func admit(port uint16, tls bool) string {
	annotation := api.PermissivePortsAnnotation
	if tls {
		annotation = api.TLSPassthroughPortsAnnotation
	}
	return fmt.Sprintf("To admit them, annotate its pod template with %s: \"%d\"", annotation, port)
}
