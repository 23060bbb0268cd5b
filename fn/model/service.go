package model

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/contract"
)

// Service is a Service all of whose workloads are in the mesh.
type Service struct {
	Object     report.Object
	Name       string
	Namespace  string
	Host       string       // <name>.<namespace>.svc.<clusterDomain>
	ClusterIPs []netip.Addr // where the manifest fixes them
	Ports      []corev1.ServicePort
	Workloads  []*Workload
}

// DNSNames are the names by which clients call the Service, the longest first.
func (s *Service) DNSNames() []string {
	return []string{s.Host, fmt.Sprintf("%s.%s.svc", s.Name, s.Namespace), fmt.Sprintf("%s.%s", s.Name, s.Namespace), s.Name}
}

// addServices joins Services and workloads. A Service without selector, or of type ExternalName, has no pods of the input behind it.
func (m *Model) addServices(services []corev1.Service, r *report.Report) {
	for _, service := range services {
		if len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		s := &Service{
			Object: report.Object{APIVersion: "v1", Kind: "Service", Namespace: service.Namespace, Name: service.Name},
			Name:   service.Name, Namespace: cmp.Or(service.Namespace, metav1.NamespaceDefault), Ports: service.Spec.Ports,
		}
		s.Host = fmt.Sprintf("%s.%s.svc.%s", s.Name, s.Namespace, m.Spec.ClusterDomain)
		s.ClusterIPs = m.clusterIPs(service, s.Object, r)
		inside, outside := selectedBy(m.Workloads, s, service), selectedBy(m.Outside, s, service)
		if len(inside) > 0 && len(outside) > 0 {
			r.Error(s.Object, "spec.selector", "selects %s, which is in the mesh, and %s, which is not; clients could not tell which answers. "+
				"Narrow the selector, or take both in or out", inside[0].Object, outside[0].Object)
		}
		if len(inside) == 0 {
			continue
		}
		s.Workloads = inside
		for _, w := range inside {
			w.Services = append(w.Services, s)
		}
		m.Services = append(m.Services, s)
	}
	slices.SortFunc(m.Services, func(a, b *Service) int { return strings.Compare(a.Host, b.Host) })
}

func selectedBy(workloads []*Workload, s *Service, service corev1.Service) []*Workload {
	selector := labels.SelectorFromSet(service.Spec.Selector)
	var selected []*Workload
	for _, w := range workloads {
		if w.Namespace == s.Namespace && selector.Matches(labels.Set(w.Pod.Labels)) {
			selected = append(selected, w)
		}
	}
	return selected
}

func (m *Model) clusterIPs(service corev1.Service, o report.Object, r *report.Report) []netip.Addr {
	texts := service.Spec.ClusterIPs
	if len(texts) == 0 && service.Spec.ClusterIP != "" {
		texts = []string{service.Spec.ClusterIP}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if text == corev1.ClusterIPNone {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			r.Error(o, "spec.clusterIPs", "%q is not an IP address", text)
			continue
		}
		addrs = append(addrs, addr)
	}
	return addrs
}

// targetPort resolves the target of a Service's port in one workload; 0 when the workload has no such named port.
func targetPort(p corev1.ServicePort, w *Workload) uint16 {
	switch {
	case p.TargetPort.Type == intstr.String:
		return w.Port(p.TargetPort.StrVal)
	case p.TargetPort.IntVal != 0:
		return uint16(p.TargetPort.IntVal)
	}
	return uint16(p.Port)
}

// ExcludedInbound are the ports of the workload's pods that bypass the proxy.
func (m *Model) ExcludedInbound(w *Workload) contract.Ports {
	return contract.UnionPorts(m.Spec.Inbound.ExcludePorts.Set(), w.Overrides.ExcludeInboundPorts)
}
