package lint

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// warnExposed warns of Services that clients outside of the mesh are meant to reach, and whose pods take mutual TLS
// only.
func warnExposed(m *manifest.Model, r *report.Report) {
	byName := map[report.Object]*manifest.Service{}
	for _, s := range m.Services {
		byName[manifest.Key(s.Object)] = s
		if s.Type == corev1.ServiceTypeLoadBalancer || s.Type == corev1.ServiceTypeNodePort {
			warnStrict(m, s, 0, "is of type "+string(s.Type), r)
		}
	}
	for _, ingress := range m.Ingresses {
		for _, backend := range backends(ingress) {
			service := report.Object{APIVersion: "v1", Kind: "Service", Namespace: ingress.Namespace, Name: backend.Name}
			s := byName[manifest.Key(service)]
			warnStrict(m, s, servicePort(s, backend.Port), "is a backend of ingress "+ingress.Name, r)
		}
	}
}

// warnHostPorts warns of ports of the node that lead to a Strict port.
func warnHostPorts(m *manifest.Model, r *report.Report) {
	for _, w := range m.Workloads {
		for field, c := range w.Containers() {
			for i, p := range c.Ports {
				if p.HostPort != 0 && strict(m, w, uint16(p.ContainerPort)) {
					r.Warn(w.Object, fmt.Sprintf("%s.ports[%d].hostPort", field, i), "hostPort %d of container %q leads to a port that takes mutual TLS only: clients outside of the mesh are refused. To admit them, set the annotation %s: \"%d\"",
						p.HostPort, c.Name, api.PermissivePortsAnnotation, p.ContainerPort)
				}
			}
		}
	}
}

// strict tells whether a port of a workload takes mutual TLS only.
func strict(m *manifest.Model, w *manifest.Workload, port uint16) bool {
	return w.Plan.PortMode(port, m.Spec.Inbound.Mode) == podplan.PortStrict
}

func backends(ingress networkingv1.Ingress) []*networkingv1.IngressServiceBackend {
	var found []*networkingv1.IngressServiceBackend
	add := func(b *networkingv1.IngressBackend) {
		if b != nil && b.Service != nil {
			found = append(found, b.Service)
		}
	}
	add(ingress.Spec.DefaultBackend)
	for _, rule := range ingress.Spec.Rules {
		if rule.HTTP == nil {
			continue
		}
		for i := range rule.HTTP.Paths {
			add(&rule.HTTP.Paths[i].Backend)
		}
	}
	return found
}

// servicePort resolves the port of an Ingress backend; 0 when it cannot.
func servicePort(s *manifest.Service, p networkingv1.ServiceBackendPort) int32 {
	if s == nil || p.Name == "" {
		return p.Number
	}
	for _, port := range s.Ports {
		if port.Name == p.Name {
			return port.Port
		}
	}
	return 0
}

// warnStrict warns of a port of a Service, 0 for all, that is Strict on any of the workloads behind it.
func warnStrict(m *manifest.Model, s *manifest.Service, number int32, why string, r *report.Report) {
	if s == nil {
		return
	}
	for i, p := range s.Ports {
		if number != 0 && p.Port != number || p.Protocol != corev1.ProtocolTCP && p.Protocol != "" {
			continue
		}
		for _, w := range s.Workloads {
			if target := manifest.TargetPort(p, w); strict(m, w, target) {
				r.Warn(s.Object, fmt.Sprintf("spec.ports[%d]", i), "port %d %s, and %s takes mutual TLS only there: clients outside of the mesh are refused. To admit them, annotate its pod template with %s: \"%d\"",
					p.Port, why, w.Object, api.PermissivePortsAnnotation, target)
			}
		}
	}
}
