// Package policy compiles who may connect to a workload: from the authorization rules of the config, and from
// NetworkPolicies where the config asks for that. Selectors become SPIFFE IDs, and patterns of them, as the mesh maps
// hold them.
package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

// Compile returns the policies of the workloads that have one; a policy without a rule lets nobody in. What the
// config's rules and the NetworkPolicies allow adds up. After an error there is none.
func Compile(m *manifest.Model, r *report.Report) map[*manifest.Workload]meshmap.Policy {
	read := readNetworkPolicies(m, r)
	if r.Failed() {
		return nil
	}
	c := &compiler{model: m, peerIDs: map[ruleIn][]string{}}
	c.checkRules(r)
	if m.Spec.Authorization.Mode == v1alpha1.AuthorizationDryRun {
		r.Warn(r.Config(), "spec.authorization.mode", "is DryRun: whoever no rule allows is logged, counted and let in. Set it to Enforce once the log names nobody who belongs in")
	}
	network := networkRules(m, read, r)
	policies := map[*manifest.Workload]meshmap.Policy{}
	for _, w := range m.Workloads {
		policy, named := c.policy(w)
		rules, selected := network[w]
		if policy.Rules = append(policy.Rules, rules...); named || selected {
			policies[w] = policy
		}
	}
	return policies
}

// compiler resolves the rules of the config.
type compiler struct {
	model   *manifest.Model
	peerIDs map[ruleIn][]string // answers of peers
}

// policy is what the authorization rules say of a workload, with selectors resolved to SPIFFE IDs, and whether any rule
// names it. A rule whose peers are nobody still closes the workload.
func (c *compiler) policy(w *manifest.Workload) (meshmap.Policy, bool) {
	policy, named := meshmap.Policy{Workload: w.ID.String()}, false
	for i, rule := range c.model.Spec.Authorization.Rules {
		if !manifest.Matches(rule.To, w) {
			continue
		}
		named = true
		if from := c.peers(i, w.Namespace); len(from) > 0 {
			policy.Rules = append(policy.Rules, meshmap.Rule{Ports: rule.Ports.Set(), From: from})
		}
	}
	return policy, named
}

// checkRules warns of rules that name nobody: most often a mistyped selector.
func (c *compiler) checkRules(r *report.Report) {
	for i, rule := range c.model.Spec.Authorization.Rules {
		field := fmt.Sprintf("spec.authorization.rules[%d]", i)
		if !slices.ContainsFunc(c.model.Workloads, func(w *manifest.Workload) bool { return manifest.Matches(rule.To, w) }) {
			r.Warn(r.Config(), field+".to", "selects no workload of the mesh")
		}
		for _, w := range c.model.Workloads {
			if manifest.Matches(rule.To, w) && len(c.peers(i, w.Namespace)) == 0 {
				r.Warn(r.Config(), field+".from", "selects no workload of the mesh (without a namespace: of namespace %q), so the rule opens nothing of %s", w.Namespace, w.Object)
			}
		}
	}
}

// peers are the identities that the peers of a rule select. A selector without a namespace means the namespace of the
// workload that the rule opens, as in a NetworkPolicy: a name that somebody takes in another namespace opens nothing.
// The answer is the same for every workload of a namespace, and looked for once.
func (c *compiler) peers(rule int, namespace string) []string {
	key := ruleIn{rule, namespace}
	ids, known := c.peerIDs[key]
	if known {
		return ids
	}
	for _, peer := range c.model.Spec.Authorization.Rules[rule].From {
		if peer.SPIFFEID != "" {
			ids = append(ids, peer.SPIFFEID)
			continue
		}
		selector := peer.Selector
		selector.Namespace = cmp.Or(selector.Namespace, namespace)
		for _, w := range c.model.Workloads {
			if manifest.Matches(selector, w) {
				ids = append(ids, w.ID.String())
			}
		}
	}
	slices.Sort(ids)
	c.peerIDs[key] = slices.Compact(ids)
	return c.peerIDs[key]
}

// ruleIn is an authorization rule, by its index, as it opens workloads of one namespace.
type ruleIn struct {
	rule      int
	namespace string
}
