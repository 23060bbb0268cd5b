package manifest

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
)

// The kind of the objects that shut the ports of workloads without redirect rules.
const (
	NetworkPolicyAPIVersion = "networking.k8s.io/v1"
	NetworkPolicyKind       = "NetworkPolicy"
)

// IsDirectPolicy tells whether an item is of the kind of the NetworkPolicies of workloads without redirect rules.
func IsDirectPolicy(item *yaml.RNode) bool {
	return item.GetKind() == NetworkPolicyKind && item.GetApiVersion() == NetworkPolicyAPIVersion
}

// DirectPolicyName is the name of the NetworkPolicy of a workload without redirect rules.
func (w *Workload) DirectPolicyName() string { return w.objectName(api.DirectPolicyPrefix) }

// Headless tells whether DNS gives clients the addresses of a Service's pods, and not one of its own.
func Headless(s corev1.Service) bool {
	return s.Spec.ClusterIP == corev1.ClusterIPNone || slices.Contains(s.Spec.ClusterIPs, corev1.ClusterIPNone)
}

// Running are the containers that run as long as a pod, but for the proxy, in the order in which Kubernetes looks for
// named ports (k8s.io/endpointslice, FindPort): containers first, then init containers that keep running.
func Running(pod *corev1.PodSpec) (list []corev1.Container) {
	for _, c := range pod.Containers {
		if c.Name != api.ProxyName {
			list = append(list, c)
		}
	}
	for _, c := range pod.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways && c.Name != api.ProxyName {
			list = append(list, c)
		}
	}
	return list
}

// ProxyPorts are the ports on which every proxy answers itself, in any mode. A Service may lead there.
var ProxyPorts = netset.PortsOf(api.MetricsPort, api.HealthPort)

// ShownPorts are the TCP ports of a workload's app: those of its containers, and those to which its Services lead.
func ShownPorts(w *Workload) (ports netset.Ports) {
	for _, c := range Running(&w.Pod.Spec) {
		for _, p := range c.Ports {
			if IsTCP(p.Protocol) {
				ports = append(ports, netset.PortsOf(uint16(p.ContainerPort))...)
			}
		}
	}
	for _, s := range w.Services {
		for _, p := range s.Ports {
			if target := TargetPort(p, w); target != 0 && IsTCP(p.Protocol) {
				ports = append(ports, netset.PortsOf(target)...)
			}
		}
	}
	return ports.Union().Minus(ProxyPorts)
}

// directPorts are the ports of the workloads behind a Service that their proxies take without redirect rules. Package
// retarget refuses a Service that leads to others as well.
func (s *Service) directPorts() (ports netset.Ports) {
	for _, w := range s.Workloads {
		if w.Plan.NoRedirect() {
			ports = ports.Union(w.Plan.Serve.Direct.Ports)
		}
	}
	return ports
}

// servicePorts are the ports on which the Services of the mesh are dialed, by <service>.<namespace>: those that the
// config names, those of the Services, and of headless ones, whose pods are dialed, those of the pods.
func (m *Model) servicePorts(r *report.Report) map[string]netset.Ports {
	all := map[string]netset.Ports{}
	for name, ports := range m.Spec.Redirect.Services {
		all[name] = ports.Set()
	}
	for _, s := range m.Services {
		if has(m.Spec.Redirect.Services, s.short()) {
			r.Error(r.Config(), "spec.redirect.services["+s.short()+"]", "is a Service of the package, whose manifest says its ports; take the entry out, and write a port that is missing there into the Service")
		}
		ports := s.tcpPorts()
		if s.headless {
			for _, w := range s.Workloads {
				ports = ports.Union(ShownPorts(w))
			}
		}
		datagrams := !s.headless && len(s.Ports) > 0 // its name leads where it led, since nothing of TCP is there
		if len(ports) > 0 || datagrams {
			all[s.short()] = ports
		}
	}
	return all
}

// directNamespaces are those with a workload without redirect rules.
func directNamespaces(workloads []*Workload) map[string]bool {
	namespaces := map[string]bool{}
	for _, w := range workloads {
		if w.Plan.NoRedirect() {
			namespaces[w.Namespace] = true
		}
	}
	return namespaces
}

// ServicePorts is what the map of a namespace says of the ports of Services, beside what the config names; nil for one
// in which every workload has redirect rules.
func (s Sides) ServicePorts(namespace string) map[string]netset.Ports {
	if !s.direct[namespace] {
		return nil
	}
	return s.ports
}
