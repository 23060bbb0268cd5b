package retarget

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/policy"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
)

// reachable are the ports, by egress rule, that a policy lacks for its pods to reach the proxies of workloads without
// redirect rules: beside each port of the app that a rule opens to them, the one on which the proxy takes what is for
// it. The ports of the app stay: others than those workloads may be meant as well.
func (a *applier) reachable(p *networkPolicy) map[int][]uint16 {
	if !p.isolatesEgress() {
		return nil
	}
	missing := map[int][]uint16{}
	for i, rule := range p.spec.Egress {
		if len(rule.Ports) == 0 {
			continue // all of them
		}
		var need netset.Ports
		for _, w := range a.workloads {
			if a.mayMean(p, rule.To, w) {
				opened, _ := opens(w, rule.Ports)
				for port := range opened.Intersect(direct(w).Ports).All() {
					need = need.Union(netset.PortsOf(api.DirectPort(port)))
				}
			}
		}
		if need = need.Minus(numbers(rule.Ports)); len(need) > 0 {
			missing[i] = slices.Collect(need.All())
		}
	}
	return missing
}

// mayMean tells whether the peers of an egress rule may be pods of a workload, as far as the input shows. Addresses
// (ipBlock) show nothing.
func (a *applier) mayMean(p *networkPolicy, peers []networkingv1.NetworkPolicyPeer, w *manifest.Workload) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		if peer.IPBlock != nil || peer.NamespaceSelector == nil && w.Namespace != p.namespace {
			return false
		}
		return a.namespaceMay(peer.NamespaceSelector, w.Namespace) && podsMay(peer.PodSelector, w)
	})
}

// podsMay tells whether a selector may select pods of a workload; nil selects all.
func podsMay(s *metav1.LabelSelector, w *manifest.Workload) bool {
	if s == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && policy.MatchPod(selector, w) != policy.NoMatch
}

// namespaceMay tells whether a selector may select a namespace, of which the labels are known where its object is in
// the input, and else the name alone.
func (a *applier) namespaceMay(s *metav1.LabelSelector, namespace string) bool {
	if s == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return false
	}
	object, known := a.model.NamespaceObjects[namespace]
	have := labels.Merge(object.Labels, labels.Set{corev1.LabelMetadataName: namespace})
	return policy.MatchLabels(selector, have, func(string) bool { return !known }) != policy.NoMatch
}

// opens are the TCP ports of a workload that ports of a rule mean, and whether they mean every one.
func opens(w *manifest.Workload, ports []networkingv1.NetworkPolicyPort) (opened netset.Ports, every bool) {
	for _, p := range ports {
		switch {
		case !tcp(p):
		case p.Port == nil:
			return nil, true
		case p.Port.Type == intstr.String:
			if number := w.Port(p.Port.StrVal); number != 0 {
				opened = opened.Union(netset.PortsOf(number))
			}
		default:
			opened = opened.Union(netset.Ports{rangeOf(p)})
		}
	}
	return opened, len(ports) == 0
}

// numbers are the TCP ports that ports of a rule say by number.
func numbers(ports []networkingv1.NetworkPolicyPort) (set netset.Ports) {
	for _, p := range ports {
		switch {
		case !tcp(p):
		case p.Port == nil:
			return netset.Ports{{First: 1, Last: 65535}}
		case p.Port.Type == intstr.Int:
			set = set.Union(netset.Ports{rangeOf(p)})
		}
	}
	return set
}

func rangeOf(p networkingv1.NetworkPolicyPort) netset.PortRange {
	r := netset.PortRange{First: uint16(p.Port.IntVal), Last: uint16(p.Port.IntVal)}
	if p.EndPort != nil {
		r.Last = uint16(*p.EndPort)
	}
	return r
}

func tcp(p networkingv1.NetworkPolicyPort) bool {
	return p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP
}
