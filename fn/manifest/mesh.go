package manifest

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Meshes are the mesh maps, one for each namespace of the mesh: every Service of the mesh, since any may be called, and
// the policies of the namespace's own workloads. What the config's rules and the NetworkPolicies allow adds up.
func (m *Model) Meshes(r *report.Report) map[string]*meshmap.Map {
	services := fold(m.Services, r)
	m.checkRules(r)
	if m.Spec.Authorization.Mode == v1alpha1.AuthorizationDryRun {
		r.Warn(r.Config(), "spec.authorization.mode", "is DryRun: whoever no rule allows is logged, counted and let in. Set it to Enforce once the log names nobody who belongs in")
	}
	network, federation := m.networkRules(r), m.federation(r)
	meshes := map[string]*meshmap.Map{}
	for _, namespace := range m.Namespaces() {
		meshes[namespace] = &meshmap.Map{
			APIVersion: api.APIVersion, Kind: "Mesh", TrustDomain: m.Spec.TrustDomain, ClusterDomain: m.Spec.ClusterDomain,
			Outbound: meshmap.Outbound{Unknown: m.Spec.Outbound.Unknown, MeshCIDRs: netset.UnionPrefixes(m.Spec.Outbound.MeshCIDRs)},
			Inbound: meshmap.Inbound{Mode: m.Spec.Inbound.Mode, Default: m.Spec.Authorization.Default,
				DryRun: m.Spec.Authorization.Mode == v1alpha1.AuthorizationDryRun},
			Services: services, Federation: federation,
		}
	}
	for _, w := range m.Workloads {
		policy, named := m.policy(w)
		rules, selected := network[w]
		policy.Rules = append(policy.Rules, rules...)
		if named || selected {
			inbound := &meshes[w.Namespace].Inbound
			inbound.Policy = append(inbound.Policy, policy)
		}
	}
	return meshes
}

// FoldServices is what the mesh maps say of Services, from the plans of the workloads behind them. Workloads outside have no
// plan; a Service that leads to both is reported.
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
			out.PlaintextTargetPorts = netset.IntersectPorts(out.PlaintextTargetPorts, excluded)
		}
	}
	slices.Sort(out.Identities)
	for _, p := range s.Ports {
		if p.Protocol != corev1.ProtocolTCP && p.Protocol != "" {
			continue
		}
		port := netset.PortsOf(int(p.Port))
		out.Ports = netset.UnionPorts(out.Ports, port)
		if s.plaintext(p, r) {
			out.PlaintextPorts = netset.UnionPorts(out.PlaintextPorts, port)
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

// policy is what the authorization rules say of a workload, with selectors resolved to SPIFFE IDs, and whether any rule
// names it. A rule whose peers are nobody still closes the workload.
func (m *Model) policy(w *Workload) (meshmap.Policy, bool) {
	policy, named := meshmap.Policy{Workload: w.ID.String()}, false
	for i, rule := range m.Spec.Authorization.Rules {
		if !Matches(rule.To, w) {
			continue
		}
		named = true
		if from := m.peers(i, w.Namespace); len(from) > 0 {
			policy.Rules = append(policy.Rules, meshmap.Rule{Ports: rule.Ports.Set(), From: from})
		}
	}
	return policy, named
}

// checkRules warns of rules that name nobody: most often a mistyped selector.
func (m *Model) checkRules(r *report.Report) {
	for i, rule := range m.Spec.Authorization.Rules {
		field := fmt.Sprintf("spec.authorization.rules[%d]", i)
		if !slices.ContainsFunc(m.Workloads, func(w *Workload) bool { return Matches(rule.To, w) }) {
			r.Warn(r.Config(), field+".to", "selects no workload of the mesh")
		}
		for _, w := range m.Workloads {
			if Matches(rule.To, w) && len(m.peers(i, w.Namespace)) == 0 {
				r.Warn(w.Object, "", "%s.from selects no workload of the mesh (without a namespace: of namespace %q), so the rule opens nothing", field, w.Namespace)
			}
		}
	}
}

// peers are the identities that the peers of a rule select. A selector without a namespace means the namespace of the
// workload that the rule opens, as in a NetworkPolicy: a name that somebody takes in another namespace opens nothing.
// The answer is the same for every workload of a namespace, and looked for once.
func (m *Model) peers(rule int, namespace string) []string {
	key := ruleIn{rule, namespace}
	ids, known := m.peerIDs[key]
	if known {
		return ids
	}
	for _, peer := range m.Spec.Authorization.Rules[rule].From {
		if peer.SPIFFEID != "" {
			ids = append(ids, peer.SPIFFEID)
			continue
		}
		selector := peer.Selector
		selector.Namespace = cmp.Or(selector.Namespace, namespace)
		for _, w := range m.Workloads {
			if Matches(selector, w) {
				ids = append(ids, w.ID.String())
			}
		}
	}
	slices.Sort(ids)
	m.peerIDs[key] = slices.Compact(ids)
	return m.peerIDs[key]
}

// ruleIn is an authorization rule, by its index, as it opens workloads of one namespace.
type ruleIn struct {
	rule      int
	namespace string
}
