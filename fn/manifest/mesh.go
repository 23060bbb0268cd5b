package manifest

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Meshes are the mesh maps, one for each namespace of the mesh: the Services of the namespace, those of others that
// deviate, and the policies of the namespace's own workloads, of those that have one.
func (m *Model) Meshes(policies map[*Workload]meshmap.Policy, r *report.Report) map[string]*meshmap.Map {
	services := m.splitServices(r)
	federation, namespaces, open := m.federation(r), m.Namespaces(), openPodPorts(m.Workloads)
	direct := directNamespaces(m.Workloads)
	var ports map[string]netset.Ports
	if len(direct) > 0 {
		ports = m.servicePorts(r)
	}
	meshes := map[string]*meshmap.Map{}
	for _, namespace := range namespaces {
		meshes[namespace] = &meshmap.Map{
			APIVersion: api.APIVersion, Kind: "Mesh", TrustDomain: m.Spec.TrustDomain, ClusterDomain: m.Spec.ClusterDomain,
			Namespace: namespace, Package: m.Package, Namespaces: without(namespaces, namespace), SharedCA: m.SharedCA,
			Outbound: meshmap.Outbound{Unknown: m.Spec.Outbound.Unknown, MeshCIDRs: netset.Prefixes(m.Spec.Outbound.MeshCIDRs).Union(),
				ClusterCIDRs: netset.Prefixes(m.Spec.Outbound.ClusterCIDRs).Union()},
			Inbound: meshmap.Inbound{Mode: m.Spec.Inbound.Mode, Default: m.Spec.Authorization.Default,
				DryRun: m.Spec.Authorization.Mode == v1alpha1.AuthorizationDryRun},
			Services: services.of(namespace), Outside: m.OutsideServices, OpenPodPorts: open, Federation: federation,
		}
		if direct[namespace] {
			meshes[namespace].ServicePorts = ports
		}
	}
	for _, w := range m.Workloads {
		if policy, named := policies[w]; named {
			inbound := &meshes[w.Namespace].Inbound
			inbound.Policy = append(inbound.Policy, policy)
		}
	}
	return meshes
}

// openPodPorts are, by namespace, the ports that some workloads take without their proxy; nil for none. One that a
// workload without redirect rules of the namespace takes through its proxy is none of them: where mutual TLS is tried,
// that pod's app itself would answer in plaintext, as if it were one of the others.
func openPodPorts(workloads []*Workload) map[string]netset.Ports {
	var open map[string]netset.Ports
	for _, w := range workloads {
		if excluded := w.Plan.Redirect.ExcludeInboundPorts; len(excluded) > 0 {
			if open == nil {
				open = map[string]netset.Ports{}
			}
			open[w.Namespace] = open[w.Namespace].Union(excluded)
		}
	}
	for _, w := range workloads {
		if has(open, w.Namespace) && w.Plan.NoRedirect() {
			open[w.Namespace] = open[w.Namespace].Minus(w.Plan.Serve.Direct.Ports)
			if len(open[w.Namespace]) == 0 {
				delete(open, w.Namespace)
			}
		}
	}
	return open
}

func without(list []string, one string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == one })
}

// Sides are what mesh maps say of the Services of a package.
type Sides struct {
	Outside []string // see Model.OutsideServices
	InMesh  []string // of the names that were given as plaintext, those that lead to workloads of the mesh
	Model   *Model   // the Services and the workloads behind them
	// OpenPodPorts are as in the map.
	OpenPodPorts map[string]netset.Ports
	split        splitServices
	direct       map[string]bool // see directNamespaces
	ports        map[string]netset.Ports
}

// Namespaces are those of the mesh, sorted.
func (s Sides) Namespaces() []string { return slices.Sorted(maps.Keys(s.Model.meshNamespaces())) }

// FoldServices is what the mesh maps say of Services, from the plans of the workloads behind them. Workloads outside
// have no plan; a Service that leads to both is reported. Plaintext are the Services that are said to be outside.
func FoldServices(inside, outside []*Workload, services []corev1.Service, clusterDomain string, plaintext []string, r *report.Report) Sides {
	m := &Model{Workloads: inside, Outside: outside, Spec: v1alpha1.Spec{ClusterDomain: clusterDomain, Outbound: v1alpha1.Outbound{PlaintextServices: plaintext}}}
	m.addServices(services, r)
	sides := Sides{Outside: m.OutsideServices, InMesh: m.inMesh, Model: m, OpenPodPorts: openPodPorts(inside), split: m.splitServices(r), direct: directNamespaces(inside)}
	if len(sides.direct) > 0 {
		sides.ports = m.servicePorts(r)
	}
	return sides
}

// Services are what the map of a namespace says of Services.
func (s Sides) Services(namespace string) []meshmap.Service { return s.split.of(namespace) }

// splitServices are the Services of the mesh, as the maps say them.
type splitServices struct {
	own       map[string][]meshmap.Service // by namespace, by host
	deviating []deviating                  // by host
}

type deviating struct {
	namespace string
	service   meshmap.Service
}

// splitServices tells apart what one namespace alone has to know of, and what every map says, since it is otherwise
// than a map says of a Service that it does not list.
func (m *Model) splitServices(r *report.Report) splitServices {
	split := splitServices{own: map[string][]meshmap.Service{}}
	for _, s := range m.Services {
		folded := s.mesh(r)
		split.own[s.Namespace] = append(split.own[s.Namespace], folded)
		if len(folded.ClusterIPs) > 0 || len(folded.PlaintextPorts) > 0 || len(folded.PlaintextTargetPorts) > 0 || len(folded.DirectPorts) > 0 {
			split.deviating = append(split.deviating, deviating{s.Namespace, folded})
		}
	}
	return split
}

// of are the Services in the map of a namespace, by host.
func (s splitServices) of(namespace string) []meshmap.Service {
	list := slices.Clone(s.own[namespace])
	for _, d := range s.deviating {
		if d.namespace != namespace {
			list = append(list, d.service)
		}
	}
	slices.SortFunc(list, func(a, b meshmap.Service) int { return strings.Compare(a.Host, b.Host) })
	return list
}

func (s *Service) mesh(r *report.Report) meshmap.Service {
	out := meshmap.Service{Host: s.Host, ClusterIPs: s.ClusterIPs, DirectPorts: s.directPorts()}
	for i, w := range s.Workloads {
		out.Identities = append(out.Identities, w.ID.String())
		if excluded := w.Plan.Redirect.ExcludeInboundPorts; i == 0 {
			out.PlaintextTargetPorts = excluded
		} else {
			out.PlaintextTargetPorts = out.PlaintextTargetPorts.Intersect(excluded)
		}
	}
	slices.Sort(out.Identities)
	for _, p := range s.Ports {
		if !IsTCP(p.Protocol) {
			continue
		}
		port := netset.PortsOf(uint16(p.Port))
		out.Ports = out.Ports.Union(port)
		if s.plaintext(p, r) {
			out.PlaintextPorts = out.PlaintextPorts.Union(port)
		}
	}
	return out
}

// plaintext tells whether the pods behind a port of a Service receive it without their proxy. All or none must. A
// workload that lacks the named target port is no endpoint of the port, so it says nothing.
func (s *Service) plaintext(p corev1.ServicePort, r *report.Report) bool {
	excluded, endpoints := 0, 0
	for _, w := range s.Workloads {
		target := TargetPort(p, w)
		if target == 0 {
			continue
		}
		endpoints++
		if w.Plan.Redirect.ExcludeInboundPorts.Contains(target) {
			excluded++
		}
	}
	if excluded > 0 && excluded < endpoints {
		r.Error(s.Object, "spec.ports", "port %d is excluded from the mesh by some of the workloads behind it and not by others; exclude it everywhere or nowhere", p.Port)
	}
	return excluded > 0 && excluded == endpoints
}
