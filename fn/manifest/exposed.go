package manifest

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// warnExposed warns of Services that clients outside of the mesh are meant to reach, and whose pods take mutual TLS
// only.
func (m *Model) warnExposed(services []corev1.Service, ingresses []networkingv1.Ingress, r *report.Report) {
	m.warnHostPorts(r)
	effective := func(namespace string) string { return EffectiveNamespace(report.Object{Namespace: namespace}) }
	byName := map[[2]string]*Service{}
	for _, s := range m.Services {
		byName[[2]string{s.Namespace, s.Name}] = s
	}
	for _, service := range services {
		if t := service.Spec.Type; t == corev1.ServiceTypeLoadBalancer || t == corev1.ServiceTypeNodePort {
			m.warnStrict(byName[[2]string{effective(service.Namespace), service.Name}], 0, "is of type "+string(t), r)
		}
	}
	for _, ingress := range ingresses {
		for _, backend := range backends(ingress) {
			s := byName[[2]string{effective(ingress.Namespace), backend.Name}]
			m.warnStrict(s, servicePort(s, backend.Port), "is a backend of ingress "+ingress.Name, r)
		}
	}
}

// warnHostPorts warns of ports of the node that lead to a Strict port.
func (m *Model) warnHostPorts(r *report.Report) {
	for _, w := range m.Workloads {
		for _, c := range w.Containers() {
			for _, p := range c.Ports {
				if p.HostPort != 0 && m.strict(w, uint16(p.ContainerPort)) {
					r.Warn(w.Object, w.Field("spec"), "hostPort %d of container %q leads to a port that takes mutual TLS only: clients outside of the mesh are refused. To admit them, set the annotation %s: \"%d\"",
						p.HostPort, c.Name, api.PermissivePortsAnnotation, p.ContainerPort)
				}
			}
		}
	}
}

// strict tells whether a port of a workload takes mutual TLS only.
func (m *Model) strict(w *Workload, port uint16) bool {
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
func servicePort(s *Service, p networkingv1.ServiceBackendPort) int32 {
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
func (m *Model) warnStrict(s *Service, number int32, why string, r *report.Report) {
	if s == nil {
		return
	}
	for _, p := range s.Ports {
		if number != 0 && p.Port != number || p.Protocol != corev1.ProtocolTCP && p.Protocol != "" {
			continue
		}
		for _, w := range s.Workloads {
			if target := targetPort(p, w); m.strict(w, target) {
				r.Warn(s.Object, "spec.ports", "port %d %s, and %s takes mutual TLS only there: clients outside of the mesh are refused. To admit them, annotate its pod template with %s: \"%d\"",
					p.Port, why, w.Object, api.PermissivePortsAnnotation, target)
			}
		}
	}
}
