package retarget

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
)

// policyOf is the spec of the NetworkPolicy of ours for a workload without redirect rules. It shuts the ports of the
// app, which nobody reaches but through the proxy. Where no other policy isolates the pods, it lets everyone reach the
// proxy; else whom the others let in, and nobody where they open nothing.
func (a *applier) policyOf(w *manifest.Workload) *yaml.Node {
	spec, ingress, egress := node.Object(), node.List(), node.List()
	types := []string{string(networkingv1.PolicyTypeIngress)}
	isolated := false
	for _, p := range a.policies {
		if !slices.Contains(p.none, w) {
			continue
		}
		isolated = true
		rules := node.Get(p.item.YNode(), "spec", "ingress")
		for i, rule := range p.spec.Ingress {
			if ports := translated(w, rule.Ports); len(ports) > 0 {
				ingress.Content = append(ingress.Content, ruleNode(node.Get(rules.Content[i], "from"), ports))
			}
		}
		if p.letsGo() && p.isolatesEgress() {
			types = []string{types[0], string(networkingv1.PolicyTypeEgress)}
			if rules := node.Get(p.item.YNode(), "spec", "egress"); rules != nil {
				egress.Content = append(egress.Content, plain(rules).Content...)
			}
		}
	}
	if !isolated {
		ingress.Content = append(ingress.Content, ruleNode(nil, append(tcpPorts(w), otherPorts(w)...)))
	}
	if len(egress.Content) > 0 {
		node.Set(spec, "egress", egress)
	}
	if len(ingress.Content) > 0 {
		node.Set(spec, "ingress", ingress)
	}
	node.Set(spec, "podSelector", node.Object("matchLabels", node.Object(api.DirectLabel, w.Plan.DirectName())))
	node.Set(spec, "policyTypes", node.Value(types))
	return spec
}

// ruleNode is an ingress rule; without from it lets everyone in.
func ruleNode(from *yaml.Node, ports []*yaml.Node) *yaml.Node {
	rule := node.Object()
	if from != nil && len(from.Content) > 0 {
		node.Set(rule, "from", plain(from))
	}
	node.Set(rule, "ports", &yaml.Node{Kind: yaml.SequenceNode, Tag: yaml.NodeTagSeq, Content: ports})
	return rule
}

// proxyPorts are those of the proxy itself, and the ports of the app that do not pass it.
func proxyPorts(w *manifest.Workload) netset.Ports {
	return manifest.ProxyPorts.Union(w.Plan.Redirect.ExcludeInboundPorts)
}

// tcpPorts are the TCP ports of a workload's pods that may be reached.
func tcpPorts(w *manifest.Workload) []*yaml.Node { return portNodes(w, direct(w).Ports, proxyPorts(w)) }

// portNodes are those on which the proxy takes what is for ports of the app, and others as they are, in order.
func portNodes(w *manifest.Workload, app, others netset.Ports) (list []*yaml.Node) {
	ranges := slices.Clone(others)
	for port := range app.Intersect(direct(w).Ports).All() {
		at := api.DirectPort(port)
		ranges = append(ranges, netset.PortRange{First: at, Last: at})
	}
	slices.SortFunc(ranges, func(a, b netset.PortRange) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	for _, r := range ranges {
		if r.Last == r.First+1 { // which others join
			list = append(list, portNode(r.First, r.First), portNode(r.Last, r.Last))
		} else {
			list = append(list, portNode(r.First, r.Last))
		}
	}
	return list
}

// otherPorts are the ports of a workload's pods that are not of TCP: they do not pass the proxy, in no mode.
func otherPorts(w *manifest.Workload) (list []*yaml.Node) {
	type port struct {
		protocol corev1.Protocol
		number   int32
	}
	var ports []port
	for _, c := range manifest.Running(&w.Pod.Spec) {
		for _, p := range c.Ports {
			if !manifest.IsTCP(p.Protocol) {
				ports = append(ports, port{p.Protocol, p.ContainerPort})
			}
		}
	}
	for _, s := range w.Services {
		for _, p := range s.Ports {
			if !manifest.IsTCP(p.Protocol) && p.TargetPort.Type == intstr.Int {
				ports = append(ports, port{p.Protocol, cmp.Or(p.TargetPort.IntVal, p.Port)})
			}
		}
	}
	slices.SortFunc(ports, func(a, b port) int {
		return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.number, b.number))
	})
	for _, p := range slices.Compact(ports) {
		list = append(list, node.Object("protocol", string(p.protocol), "port", int(p.number)))
	}
	return list
}

// translated are the ports that those of an ingress rule mean of a workload: none for a rule that opens nothing of it.
// A port of the app that does not pass its proxy, and is not excluded either, is none: nobody may reach it.
func translated(w *manifest.Workload, ports []networkingv1.NetworkPolicyPort) (list []*yaml.Node) {
	if opened, every := opens(w, ports); every {
		list = tcpPorts(w)
	} else {
		list = portNodes(w, opened, opened.Intersect(proxyPorts(w)))
	}
	if len(ports) == 0 { // of every protocol
		return append(list, node.Object("protocol", string(corev1.ProtocolSCTP)), node.Object("protocol", string(corev1.ProtocolUDP)))
	}
	for _, p := range ports {
		if tcp(p) {
			continue
		}
		n := node.Object("protocol", string(*p.Protocol))
		switch {
		case p.Port == nil:
		case p.Port.Type == intstr.String:
			node.Set(n, "port", node.Text(p.Port.StrVal))
		default:
			node.Set(n, "port", node.Value(int(p.Port.IntVal)))
		}
		if p.EndPort != nil {
			node.Set(n, "endPort", node.Value(int(*p.EndPort)))
		}
		list = append(list, n)
	}
	return list
}

// plain is a copy of a node without comments and style.
func plain(n *yaml.Node) *yaml.Node {
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value}
	for _, child := range n.Content {
		out.Content = append(out.Content, plain(child))
	}
	return out
}
