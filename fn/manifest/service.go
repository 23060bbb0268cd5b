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
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
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
	// those of UDP and SCTP that are plaintext on purpose, as PortName writes them
	PlaintextPorts []string

	headless      bool
	guessed       []string              // keys of the selector by which its pods are told from others at run time alone
	addressFields map[netip.Addr]string // of ClusterIPs, where each is written
}

// short is the name by which mesh map and config name a Service without more.
func (s *Service) short() string { return s.Name + "." + s.Namespace }

// Headless tells whether clients get the addresses of pods.
func (s *Service) Headless() bool { return s.headless }

// DNSNames are the names by which clients call the Service, the longest first. The name alone is not among them: it
// means another Service in every namespace, so a certificate for it would pass for somebody else's.
func (s *Service) DNSNames() []string {
	return []string{s.Host, fmt.Sprintf("%s.%s.svc", s.Name, s.Namespace), fmt.Sprintf("%s.%s", s.Name, s.Namespace)}
}

// addServices joins Services and workloads. A Service of type ExternalName leads to another name, whose address tells
// who is there.
func (m *Model) addServices(services []corev1.Service, r *report.Report) {
	find, inMesh := NewFinder(m.Workloads, m.Outside), m.meshNamespaces()
	plaintext := map[string]bool{}
	for _, name := range m.Spec.Outbound.PlaintextServices {
		plaintext[name] = true
	}
	m.OutsideServices = slices.Clone(m.Spec.Outbound.PlaintextServices)
	for _, service := range services {
		s := m.readService(service, r)
		if s == nil || service.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		b := find.find(s, service, r)
		mixed := len(b.inside) > 0 && len(b.outside) > 0
		switch {
		case mixed && len(b.guessed) == 0:
			r.Error(s.Object, "spec.selector", "selects %s, which is in the mesh, and %s, which is not; clients could not tell which answers. "+
				"Narrow the selector, or take both in or out", b.inside[0].Object, b.outside[0].Object)
		case len(b.inside) > 0 && plaintext[s.short()]:
			if len(b.guessed) == 0 {
				m.inMesh = append(m.inMesh, s.short())
			}
			continue
		case mixed || b.none():
			_, said := service.Annotations[api.WorkloadsAnnotation] // what is wrong with it, find has reported
			if inMesh[s.Namespace] && !plaintext[s.short()] && !(said && b.none()) {
				m.unexplained = append(m.unexplained, unexplained{s, service.Spec.Selector, find.partly(s.Namespace, service.Spec.Selector)})
			}
			continue
		case len(b.inside) == 0:
			if inMesh[s.Namespace] {
				m.OutsideServices = append(m.OutsideServices, s.short())
			}
			continue
		}
		m.join(s, service.Spec, b, r)
	}
	m.refuseSharedIPs(r)
	slices.SortFunc(m.Services, func(a, b *Service) int { return strings.Compare(a.Host, b.Host) })
	slices.Sort(m.OutsideServices)
	m.OutsideServices = slices.Compact(m.OutsideServices)
}

// meshNamespaces are the namespaces with a workload of the mesh.
func (m *Model) meshNamespaces() map[string]bool {
	namespaces := map[string]bool{}
	for _, w := range m.Workloads {
		namespaces[w.Namespace] = true
	}
	return namespaces
}

// join puts a Service in front of the workloads of the mesh that are behind it.
func (m *Model) join(s *Service, spec corev1.ServiceSpec, b behind, r *report.Report) {
	s.readAddresses(spec, r)
	s.Workloads, s.guessed = b.inside, b.guessed
	for _, w := range b.inside {
		w.Services = append(w.Services, s)
	}
	m.Services = append(m.Services, s)
}

// readService checks what gets into names and certificates; nil after an error.
func (m *Model) readService(service corev1.Service, r *report.Report) *Service {
	object := report.Object{APIVersion: "v1", Kind: "Service", Namespace: service.Namespace, Name: service.Name}
	s := &Service{Object: object, Name: service.Name, Namespace: EffectiveNamespace(object), Type: service.Spec.Type, Ports: service.Spec.Ports, headless: Headless(service)}
	s.readPlaintextPorts(service.Annotations, r)
	external := service.Spec.Type == corev1.ServiceTypeExternalName
	if _, said := service.Annotations[api.WorkloadsAnnotation]; said && external {
		r.Error(s.Object, report.Annotation(api.WorkloadsAnnotation), "has no effect on a Service of type ExternalName: clients get the address of what it names; take it out")
	}
	if strings.HasPrefix(s.Name, api.MembersPrefix) || strings.HasPrefix(s.Name, api.AliasPrefix) {
		r.Error(s.Object, "metadata.name", "is a name as meshless gives it to Services of its own, by which proxies tell who is in the mesh; rename it")
		return nil
	}
	if !external && len(service.Spec.Selector) == 0 && service.Annotations[api.WorkloadsAnnotation] == "" {
		return s // it gets into no certificate, and Kubernetes judges the rest
	}
	if bad := badName(validation.IsDNS1123Label(s.Name), s.Namespace); bad != "" && !external {
		r.Error(s.Object, bad, "%q in namespace %q: Kubernetes accepts no such name for a Service, and it would get into a certificate", s.Name, s.Namespace)
		return nil
	}
	if !external && !checkServicePorts(s.Ports, s.Object, r) {
		return nil
	}
	s.Host = fmt.Sprintf("%s.%s.svc.%s", s.Name, s.Namespace, m.Spec.ClusterDomain)
	return s
}

// readAddresses reads the addresses of a Service that its manifest fixes. One without a TCP port has none: what goes
// there does not pass a proxy, so the address says nothing of a connection, and another Service may have it as well.
func (s *Service) readAddresses(spec corev1.ServiceSpec, r *report.Report) {
	s.addressFields = map[netip.Addr]string{}
	if len(s.tcpPorts()) == 0 {
		return
	}
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

// refuseSharedIPs refuses an address that two Services claim, where a connection to it could not be told: one would
// answer in the name of the other. A clusterIP belongs to one Service. Several may share the address of a load balancer
// or an external one, if they have other ports each, or if the same workloads are behind them.
func (m *Model) refuseSharedIPs(r *report.Report) {
	owners := map[netip.Addr][]*Service{}
	for _, s := range m.Services {
		for _, addr := range s.ClusterIPs {
			for _, owner := range owners[addr] {
				common := s.tcpPorts().Intersect(owner.tcpPorts())
				switch {
				case s.hasClusterIP(addr) || owner.hasClusterIP(addr):
					r.Error(s.Object, s.addressFields[addr], "claims %s, as %s does; a clusterIP belongs to one Service", addr, owner.Object)
				case len(common) > 0 && !sameWorkloads(s, owner):
					r.Error(s.Object, s.addressFields[addr], "claims port %s of %s, as %s does, and other workloads are behind that: who answers could not be told. Give one of the two another address, or other ports",
						common, addr, owner.Object)
				}
			}
			owners[addr] = append(owners[addr], s)
		}
	}
}

// hasClusterIP tells whether an address of the Service is its clusterIP.
func (s *Service) hasClusterIP(addr netip.Addr) bool {
	return strings.HasPrefix(s.addressFields[addr], "spec.clusterIP")
}

// tcpPorts are the ports of the Service by which connections reach it.
func (s *Service) tcpPorts() (ports netset.Ports) {
	for _, p := range s.Ports {
		if IsTCP(p.Protocol) {
			ports = ports.Union(netset.PortsOf(uint16(p.Port)))
		}
	}
	return ports
}

func sameWorkloads(a, b *Service) bool {
	within := func(a, b *Service) bool {
		return !slices.ContainsFunc(a.Workloads, func(w *Workload) bool { return !slices.Contains(b.Workloads, w) })
	}
	return within(a, b) && within(b, a)
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
