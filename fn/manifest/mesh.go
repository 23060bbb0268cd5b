package manifest

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Meshes are the mesh maps, one for each namespace of the mesh: every Service of the mesh, since any may be called, and
// the policies of the namespace's own workloads, of those that have one.
func (m *Model) Meshes(policies map[*Workload]meshmap.Policy, r *report.Report) map[string]*meshmap.Map {
	services := fold(m.Services, r)
	federation := m.federation(r)
	meshes := map[string]*meshmap.Map{}
	for _, namespace := range m.Namespaces() {
		meshes[namespace] = &meshmap.Map{
			APIVersion: api.APIVersion, Kind: "Mesh", TrustDomain: m.Spec.TrustDomain, ClusterDomain: m.Spec.ClusterDomain,
			Outbound: meshmap.Outbound{Unknown: m.Spec.Outbound.Unknown, MeshCIDRs: netset.Prefixes(m.Spec.Outbound.MeshCIDRs).Union()},
			Inbound: meshmap.Inbound{Mode: m.Spec.Inbound.Mode, Default: m.Spec.Authorization.Default,
				DryRun: m.Spec.Authorization.Mode == v1alpha1.AuthorizationDryRun},
			Services: services, Federation: federation,
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

// FoldServices is what the mesh maps say of Services, from the plans of the workloads behind them. Workloads outside
// have no plan; a Service that leads to both is reported.
func FoldServices(inside, outside []*Workload, services []corev1.Service, clusterDomain string, r *report.Report) []meshmap.Service {
	m := &Model{Workloads: inside, Outside: outside, Spec: v1alpha1.Spec{ClusterDomain: clusterDomain}}
	m.addServices(services, r)
	return fold(m.Services, r)
}

func fold(services []*Service, r *report.Report) (folded []meshmap.Service) {
	for _, s := range services {
		folded = append(folded, s.mesh(r))
	}
	return folded
}

func (s *Service) mesh(r *report.Report) meshmap.Service {
	out := meshmap.Service{Host: s.Host, ClusterIPs: s.ClusterIPs}
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
		if p.Protocol != corev1.ProtocolTCP && p.Protocol != "" {
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

// plaintext tells whether the pods behind a port of a Service receive it without their proxy. All or none must.
func (s *Service) plaintext(p corev1.ServicePort, r *report.Report) bool {
	excluded := 0
	for _, w := range s.Workloads {
		if w.Plan.Redirect.ExcludeInboundPorts.Contains(TargetPort(p, w)) {
			excluded++
		}
	}
	if excluded > 0 && excluded < len(s.Workloads) {
		r.Error(s.Object, "spec.ports", "port %d is excluded from the mesh by some of the workloads behind it and not by others; exclude it everywhere or nowhere", p.Port)
	}
	return excluded == len(s.Workloads)
}
