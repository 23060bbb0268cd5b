package retarget

import (
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/policy"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// networkPolicy is a NetworkPolicy of the input.
//
// What NetworkPolicies open adds up, so one that opens a port of the app, or every port, would lead past the proxy
// whatever ours says. And one may select pods of every mode at once. So it lets go of the pods without redirect rules,
// by their label, and the policy of ours for each of their workloads says what it said of them, with the ports on which
// their proxies listen. For all other pods it says what it always said.
type networkPolicy struct {
	item      *yaml.RNode
	object    report.Object
	namespace string
	spec      networkingv1.NetworkPolicySpec
	selector  labels.Selector

	selectsNone bool // workloads without redirect rules are among those that it isolates
}

// read reads a NetworkPolicy.
func (a *applier) read(item *yaml.RNode) {
	object, ok := decode[networkingv1.NetworkPolicy](item, a.report)
	if !ok {
		return
	}
	p := &networkPolicy{item: item, object: report.ObjectOf(item), namespace: manifest.NamespaceOf(item), spec: object.Spec}
	var err error
	if p.selector, err = metav1.LabelSelectorAsSelector(&p.spec.PodSelector); err != nil {
		a.report.Error(p.object, "spec.podSelector", "is no label selector: %v", err)
		return
	}
	if requirements, _ := p.selector.Requirements(); slices.ContainsFunc(requirements, func(r labels.Requirement) bool { return r.Key() == api.DirectLabel }) {
		a.report.Error(p.object, "spec.podSelector", "selects by the label %s, by which a render makes NetworkPolicies let go of pods without redirect rules. Take it out, and select by labels of the pod template", api.DirectLabel)
		return
	}
	if p.object.Namespace == "" && slices.ContainsFunc(a.workloads, func(w *manifest.Workload) bool { return w.Object.Namespace != "" && w.Namespace != p.namespace }) {
		a.report.Warn(p.object, "metadata.namespace", "is missing, and is taken for %q: applied to the namespace of a workload without redirect rules, it would open ports of the app past the proxy. Write the namespace", p.namespace)
	}
	for _, side := range p.rules() {
		for i, ports := range side.ports {
			for j, port := range ports {
				if !policy.ValidPort(port) {
					a.report.Error(p.object, fmt.Sprintf("spec.%s[%d].ports[%d]", side.name, i, j), "is no port: a number of 1 to 65535, with an endPort that is not smaller, or a name")
					return
				}
			}
		}
	}
	a.policies = append(a.policies, p)
}

// side are the ports of the rules of one direction.
type side struct {
	name  string
	ports [][]networkingv1.NetworkPolicyPort
}

func (p *networkPolicy) rules() []side {
	ingress, egress := side{name: "ingress"}, side{name: "egress"}
	for _, rule := range p.spec.Ingress {
		ingress.ports = append(ingress.ports, rule.Ports)
	}
	for _, rule := range p.spec.Egress {
		egress.ports = append(egress.ports, rule.Ports)
	}
	return []side{ingress, egress}
}

// isolates tells whether it isolates its pods for what they take, as a policy that does not say it does.
func (p *networkPolicy) isolates() bool {
	return len(p.spec.PolicyTypes) == 0 || slices.Contains(p.spec.PolicyTypes, networkingv1.PolicyTypeIngress)
}

// isolatesEgress tells whether it isolates its pods for what they send.
func (p *networkPolicy) isolatesEgress() bool {
	return len(p.spec.PolicyTypes) == 0 && len(p.spec.Egress) > 0 || slices.Contains(p.spec.PolicyTypes, networkingv1.PolicyTypeEgress)
}

// letsGo tells whether the policies of ours say what it said of pods without redirect rules. One that opens nothing may
// keep them: it isolates them, and that is all.
func (p *networkPolicy) letsGo() bool {
	return p.isolates() && len(p.spec.Ingress) > 0 && p.selectsNone
}

// match finds the workloads without redirect rules that each policy selects.
func (a *applier) match() {
	a.selecting = map[*manifest.Workload][]*networkPolicy{}
	for _, p := range a.policies {
		if !p.isolates() {
			continue
		}
		for _, w := range a.workloads {
			if w.Namespace != p.namespace {
				continue
			}
			switch policy.MatchPod(p.selector, w) {
			case policy.FullMatch:
				p.selectsNone = true
				a.selecting[w] = append(a.selecting[w], p)
			case policy.UnknownMatch:
				a.report.Error(p.object, "spec.podSelector", "selects pods of %s, which has no redirect rules, by a label that they get at run time only: one NetworkPolicy opens the ports of their proxies, "+
					"for all of them alike. Select by labels of the pod template, or give the workload redirect rules (%s: Rules)", w.Object, api.RedirectAnnotation)
			}
		}
	}
}

// Keys of the record of a NetworkPolicy: what the pod selector and its expressions were, where they were empty, and the
// ports that were added to its egress rules, by the index of the rule.
const (
	selectorKey    = "podSelector"
	expressionsKey = "matchExpressions"
	egressKey      = "egress"
)

// edit makes a policy let go of pods without redirect rules, and lets clients reach the ports of their proxies.
func (a *applier) edit(p *networkPolicy) {
	added := a.reachable(p)
	if !p.letsGo() && len(added) == 0 {
		return
	}
	err := node.ResolveAliases(p.item)
	record := node.Object()
	spec := node.Child(p.item.YNode(), "spec")
	if p.letsGo() {
		release(spec, record)
	}
	if len(added) > 0 {
		noted := node.Child(record, egressKey)
		for i, rule := range node.Get(spec, egressKey).Content {
			if len(added[i]) == 0 {
				continue
			}
			note := node.List()
			note.Style = yaml.FlowStyle
			ports := node.Get(rule, "ports")
			for _, port := range added[i] {
				ports.Content = append(ports.Content, portNode(port, port))
				note.Content = append(note.Content, node.Value(int(port)))
			}
			node.Set(noted, fmt.Sprint(i), note)
		}
	}
	if err == nil {
		err = attach(p.item, api.NetworkPolicyAnnotation, record)
	}
	if err != nil {
		a.report.Error(p.object, "spec", "%v", err)
	}
}

// release adds the expression by which a policy selects no pods without redirect rules.
func release(spec, record *yaml.Node) {
	selector := emptied(spec, selectorKey, record, node.Object())
	expressions := emptied(selector, expressionsKey, record, node.List())
	expressions.Content = append(expressions.Content, node.Object("key", api.DirectLabel, "operator", string(metav1.LabelSelectorOpDoesNotExist)))
}

// emptied is the value of a key to which something is added: a new one where it is missing or holds nothing, and the
// record has what was there.
func emptied(mapping *yaml.Node, key string, record, fresh *yaml.Node) *yaml.Node {
	was := node.Get(mapping, key)
	switch {
	case was == nil:
		insert(mapping, key, fresh)
	case len(was.Content) == 0:
		node.Set(record, key, was)
		node.Set(mapping, key, fresh)
	default:
		return was
	}
	return fresh
}

// stripNetworkPolicy undoes edit.
func stripNetworkPolicy(item *yaml.RNode) error {
	record, err := detach(item, api.NetworkPolicyAnnotation)
	if record == nil || err != nil {
		return err
	}
	spec := node.Get(item.YNode(), "spec")
	selector := node.Get(spec, selectorKey)
	if expressions := node.Get(selector, expressionsKey); expressions != nil {
		before := len(expressions.Content)
		expressions.Content = slices.DeleteFunc(expressions.Content, isRelease)
		if len(expressions.Content) == 0 && before > 0 {
			restore(selector, expressionsKey, node.Get(record, expressionsKey))
		}
		if len(selector.Content) == 0 {
			restore(spec, selectorKey, node.Get(record, selectorKey))
		}
	}
	rules, noted := node.Get(spec, egressKey), node.Get(record, egressKey)
	if rules == nil || rules.Kind != yaml.SequenceNode {
		return nil
	}
	for i, rule := range rules.Content {
		dropPorts(node.Get(rule, "ports"), node.Get(noted, fmt.Sprint(i)))
	}
	return nil
}

func isRelease(expression *yaml.Node) bool {
	return node.Scalar(expression, "key") == api.DirectLabel && node.Scalar(expression, "operator") == string(metav1.LabelSelectorOpDoesNotExist)
}

// dropPorts takes the ports that were added out of a rule, from its end. It never leaves a rule without ports, which
// would mean all of them.
func dropPorts(ports, added *yaml.Node) {
	if ports == nil || added == nil || ports.Kind != yaml.SequenceNode {
		return
	}
	for _, port := range slices.Backward(added.Content) {
		last := len(ports.Content) - 1
		if last < 1 || !isDirect(port.Value) || node.Scalar(ports.Content[last], "port") != port.Value || node.Get(ports.Content[last], "endPort") != nil {
			return
		}
		ports.Content = ports.Content[:last]
	}
}

// portNode is an entry of the ports of a rule.
func portNode(first, last uint16) *yaml.Node {
	n := node.Object("protocol", "TCP", "port", int(first))
	if last != first {
		node.Set(n, "endPort", node.Value(int(last)))
	}
	return n
}
