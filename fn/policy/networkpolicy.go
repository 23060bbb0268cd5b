package policy

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

// networkPolicy is a NetworkPolicy that isolates pods for ingress, as spec.authorization.fromNetworkPolicies reads it
// (Kubernetes documentation, "Network Policies"). What its rules allow is allowed to identities here; whatever of it
// cannot be told of an identity allows nobody, with a warning.
type networkPolicy struct {
	object    report.Object
	namespace string
	selector  labels.Selector // of the pods that it isolates
	ingress   []networkingv1.NetworkPolicyIngressRule
}

// readNetworkPolicies reads those of Kubernetes, and warns of others: whoever asks for policies of the network as rules
// may think that these are among them.
func readNetworkPolicies(m *manifest.Model, r *report.Report) (policies []*networkPolicy) {
	for _, item := range m.NetworkPolicies {
		object := report.ObjectOf(item)
		if object.APIVersion != networkingv1.SchemeGroupVersion.String() || object.Kind != "NetworkPolicy" {
			r.Warn(object, "kind", "is a %s of %s, which spec.authorization.fromNetworkPolicies does not read: it reads NetworkPolicies of %s. Write what it says into spec.authorization.rules",
				object.Kind, object.APIVersion, networkingv1.SchemeGroupVersion)
		} else if p := readNetworkPolicy(item, object, r); p != nil {
			policies = append(policies, p)
		}
	}
	return policies
}

// readNetworkPolicy reads one, nil when it says nothing of ingress. Unknown fields are errors: a rule whose "from" is
// mistyped would let everyone in.
func readNetworkPolicy(item *yaml.RNode, object report.Object, r *report.Report) *networkPolicy {
	var spec networkingv1.NetworkPolicySpec
	if n := node.Get(item.YNode(), "spec"); n != nil {
		mistakes, err := node.DecodeStrict(yaml.NewRNode(n), &spec)
		if err != nil {
			path, message := node.FieldOf(err)
			r.Error(object, report.Below("spec", path), "cannot be read: %s", message)
			return nil
		}
		for _, mistake := range mistakes {
			path, message := node.FieldOf(mistake)
			r.Error(object, report.Below("spec", path), "%s", message)
		}
	}
	if len(spec.PolicyTypes) > 0 && !slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeIngress) {
		return nil
	}
	selector, ok := readSelector(&spec.PodSelector, object, "spec.podSelector", r)
	if !ok {
		return nil
	}
	p := &networkPolicy{object: object, namespace: manifest.EffectiveNamespace(object), selector: selector, ingress: spec.Ingress}
	p.check(r)
	return p
}

// readSelector reads a selector that is not nil; an empty one selects everything.
func readSelector(s *metav1.LabelSelector, of report.Object, field string, r *report.Report) (labels.Selector, bool) {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		r.Error(of, field, "is no label selector: %v", err)
		return nil, false
	}
	return selector, true
}

// check refuses what Kubernetes refuses, and what would mean something else once its numbers are cut to size.
func (p *networkPolicy) check(r *report.Report) {
	for i, rule := range p.ingress {
		field := fmt.Sprintf("spec.ingress[%d]", i)
		for j, port := range rule.Ports {
			if !ValidPort(port) {
				r.Error(p.object, fmt.Sprintf("%s.ports[%d]", field, j), "is no port: a number of 1 to 65535, with an endPort that is not smaller, or a name")
			}
		}
		for j, peer := range rule.From {
			at := fmt.Sprintf("%s.from[%d]", field, j)
			if peer.PodSelector == nil && peer.NamespaceSelector == nil && peer.IPBlock == nil {
				r.Error(p.object, at, "names neither pods nor namespaces nor an ipBlock; to let everyone in, leave from out")
			}
			if peer.PodSelector != nil {
				readSelector(peer.PodSelector, p.object, at+".podSelector", r)
			}
			if peer.NamespaceSelector != nil {
				readSelector(peer.NamespaceSelector, p.object, at+".namespaceSelector", r)
			}
		}
	}
}

// ValidPort tells whether Kubernetes takes a port of a rule.
func ValidPort(p networkingv1.NetworkPolicyPort) bool {
	if p.Port == nil || p.Port.Type == intstr.String {
		return p.EndPort == nil && (p.Port == nil || p.Port.StrVal != "")
	}
	first, last := p.Port.IntVal, p.Port.IntVal
	if p.EndPort != nil {
		last = *p.EndPort
	}
	return 1 <= first && first <= last && last <= 65535
}

// networkRules are the rules of every workload that a NetworkPolicy selects: it is among the keys also when nobody may
// connect. The policies are taken in the order of their names, so that the order of the input shows nowhere.
func networkRules(m *manifest.Model, policies []*networkPolicy, r *report.Report) map[*manifest.Workload][]meshmap.Rule {
	if !m.Spec.Authorization.FromNetworkPolicies {
		return nil
	}
	if len(policies) == 0 {
		r.Warn(r.Config(), "spec.authorization.fromNetworkPolicies", "is true, and the input holds no NetworkPolicy for ingress: nothing is closed by it")
	}
	slices.SortStableFunc(policies, func(a, b *networkPolicy) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.object.Name, b.object.Name))
	})
	peers := newPeerFinder(m, r)
	rules := map[*manifest.Workload][]meshmap.Rule{}
	for _, p := range policies {
		selected := p.selects(peers.workloads[p.namespace], rules, r)
		if len(selected) == 0 {
			continue // its pods are not ours, so what it says of peers is not either
		}
		for i, rule := range p.ingress {
			field := fmt.Sprintf("spec.ingress[%d]", i)
			p.warnNames(field, rule.Ports, selected, r)
			from := peers.find(p, field, rule.From)
			for _, w := range selected {
				if ports, some := openedPorts(w, rule.Ports); some && len(from) > 0 {
					rules[w] = append(rules[w], meshmap.Rule{Ports: ports, From: from})
				}
			}
		}
	}
	return rules
}

// selects are the workloads whose pods the policy isolates; each becomes a key of rules. A workload of which it
// isolates some pods only is closed: there is one identity, and one policy, for all of them.
func (p *networkPolicy) selects(workloads []*manifest.Workload, rules map[*manifest.Workload][]meshmap.Rule, r *report.Report) []*manifest.Workload {
	var selected []*manifest.Workload
	for _, w := range workloads {
		found := MatchPod(p.selector, w)
		if found == NoMatch {
			continue
		}
		if _, known := rules[w]; !known {
			rules[w] = nil
		}
		if found == FullMatch {
			selected = append(selected, w)
			continue
		}
		r.Warn(p.object, "spec.podSelector", "selects pods of %s by a label that they get at run time only: the workload is closed as a whole, and this policy opens nothing of it. "+
			"Select by labels of the pod template, or write who may connect into spec.authorization.rules", w.Object)
	}
	return selected
}

// warnNames warns of named ports that lead nowhere: most often a typo.
func (p *networkPolicy) warnNames(field string, ports []networkingv1.NetworkPolicyPort, selected []*manifest.Workload, r *report.Report) {
	for i, port := range ports {
		if !isTCP(port) || port.Port == nil || port.Port.Type != intstr.String {
			continue
		}
		if !slices.ContainsFunc(selected, func(w *manifest.Workload) bool { return w.Port(port.Port.StrVal) != 0 }) {
			r.Warn(p.object, fmt.Sprintf("%s.ports[%d].port", field, i), "no workload that the policy selects has a TCP port named %q, so this opens nothing; add the name to the ports of its container",
				port.Port.StrVal)
		}
	}
}

// openedPorts are the TCP ports of a workload that the ports of an ingress rule mean, none for every port, and whether
// there is any: a rule for UDP alone, or for a named port that the workload has not, opens nothing.
func openedPorts(w *manifest.Workload, ports []networkingv1.NetworkPolicyPort) (set netset.Ports, some bool) {
	if len(ports) == 0 {
		return nil, true
	}
	for _, p := range ports {
		switch {
		case !isTCP(p):
			continue
		case p.Port == nil:
			return nil, true
		case p.Port.Type == intstr.String:
			if number := w.Port(p.Port.StrVal); number != 0 {
				set = set.Union(netset.PortsOf(number))
			}
		default: // check has looked at the numbers
			last := p.Port.IntVal
			if p.EndPort != nil {
				last = *p.EndPort
			}
			set = set.Union(netset.Ports{{First: uint16(p.Port.IntVal), Last: uint16(last)}})
		}
	}
	return set, len(set) > 0
}

func isTCP(p networkingv1.NetworkPolicyPort) bool {
	return p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP
}
