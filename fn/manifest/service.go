package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/meshless-dev/meshless/fn/report"
)

// Service is a Service all of whose workloads are in the mesh.
type Service struct {
	Object     report.Object
	Name       string
	Namespace  string
	Type       corev1.ServiceType
	Host       string       // <name>.<namespace>.svc.<clusterDomain>
	ClusterIPs []netip.Addr // where the manifest fixes them
	Ports      []corev1.ServicePort
	Workloads  []*Workload

	addressFields map[netip.Addr]string // of ClusterIPs, where each is written
}

// DNSNames are the names by which clients call the Service, the longest first. The name alone is not among them: it
// means another Service in every namespace, so a certificate for it would pass for somebody else's.
func (s *Service) DNSNames() []string {
	return []string{s.Host, fmt.Sprintf("%s.%s.svc", s.Name, s.Namespace), fmt.Sprintf("%s.%s", s.Name, s.Namespace)}
}

// addServices joins Services and workloads. A Service without selector, or of type ExternalName, has no pods of the
// input behind it.
func (m *Model) addServices(services []corev1.Service, r *report.Report) {
	inMesh, outOfMesh := indexOf(m.Workloads), indexOf(m.Outside)
	for _, service := range services {
		if len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		object := report.Object{APIVersion: "v1", Kind: "Service", Namespace: service.Namespace, Name: service.Name}
		s := &Service{Object: object, Name: service.Name, Namespace: EffectiveNamespace(object), Type: service.Spec.Type, Ports: service.Spec.Ports}
		if bad := badName(validation.IsDNS1123Label(s.Name), s.Namespace); bad != "" {
			r.Error(s.Object, bad, "%q in namespace %q: Kubernetes accepts no such name for a Service, and it would get into a certificate", s.Name, s.Namespace)
			continue
		}
		if !checkServicePorts(s.Ports, s.Object, r) {
			continue
		}
		s.Host = fmt.Sprintf("%s.%s.svc.%s", s.Name, s.Namespace, m.Spec.ClusterDomain)
		s.readAddresses(service.Spec, r)
		inside, outside := inMesh.Select(s.Namespace, service.Spec.Selector), outOfMesh.Select(s.Namespace, service.Spec.Selector)
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
	m.refuseSharedIPs(r)
	slices.SortFunc(m.Services, func(a, b *Service) int { return strings.Compare(a.Host, b.Host) })
}

func indexOf(workloads []*Workload) *Index[*Workload] {
	x := &Index[*Workload]{}
	for _, w := range workloads {
		x.Add(w.Namespace, w.Pod.Labels, w)
	}
	return x
}

// readAddresses reads the addresses of a Service that its manifest fixes.
func (s *Service) readAddresses(spec corev1.ServiceSpec, r *report.Report) {
	s.addressFields = map[netip.Addr]string{}
	read := func(field, text string) {
		if text == "" || text == corev1.ClusterIPNone {
			return
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			r.Error(s.Object, field, "%q is not an IP address", text)
			return
		}
		if addr = addr.Unmap(); !has(s.addressFields, addr) {
			s.addressFields[addr] = field
			s.ClusterIPs = append(s.ClusterIPs, addr)
		}
	}
	read("spec.clusterIP", spec.ClusterIP)
	for i, text := range spec.ClusterIPs {
		read(fmt.Sprintf("spec.clusterIPs[%d]", i), text)
	}
	for i, text := range spec.ExternalIPs {
		read(fmt.Sprintf("spec.externalIPs[%d]", i), text)
	}
	read("spec.loadBalancerIP", spec.LoadBalancerIP)
}

// refuseSharedIPs refuses an address that two Services claim: only one of them can have it, and the other would answer
// in its name.
func (m *Model) refuseSharedIPs(r *report.Report) {
	owners := map[netip.Addr]*Service{}
	for _, s := range m.Services {
		for _, addr := range s.ClusterIPs {
			if owner := owners[addr]; owner != nil {
				r.Error(s.Object, s.addressFields[addr], "claims %s, as %s does; an address belongs to one Service", addr, owner.Object)
			}
			owners[addr] = s
		}
	}
}

// TargetPort resolves the target of a Service's port in one workload; 0 when the workload has no such named port.
func TargetPort(p corev1.ServicePort, w *Workload) uint16 {
	switch {
	case p.TargetPort.Type == intstr.String:
		return w.Port(p.TargetPort.StrVal)
	case p.TargetPort.IntVal != 0:
		return uint16(p.TargetPort.IntVal)
	}
	return uint16(p.Port)
}
