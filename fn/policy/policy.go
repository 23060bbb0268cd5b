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
	c := &compiler{model: m, config: r.Config(), peerIDs: map[ruleIn][]string{}}
	if c.checkRules(r); r.Failed() {
		return nil
	}
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
	config  report.Object
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

// checkRules refuses rules that open no workload: most often a mistyped name, and the workload that was meant stays
// open to whom the default lets in. A rule that lets nobody in fails closed, and is warned of.
func (c *compiler) checkRules(r *report.Report) {
	for i, rule := range c.model.Spec.Authorization.Rules {
		field, warn := fmt.Sprintf("spec.authorization.rules[%d]", i), r.Warn
		if rule.Optional {
			warn = r.Info
		}
		var opened []*manifest.Workload // the first of each namespace
		for _, w := range c.model.Workloads {
			inIt := func(other *manifest.Workload) bool { return other.Namespace == w.Namespace }
			if manifest.Matches(rule.To, w) && !slices.ContainsFunc(opened, inIt) {
				opened = append(opened, w)
			}
		}
		switch {
		case len(opened) == 0 && rule.Optional:
			r.Info(r.Config(), field+".to", "selects no workload of the mesh")
		case len(opened) == 0:
			r.Error(r.Config(), field+".to", "selects no workload of the mesh%s. A rule for what may be missing says optional: true", c.missing(rule.To))
		}
		c.checkPeers(i, field, opened, warn)
	}
}

// missing says what a selector may have meant, and that it means a workload outside of the mesh.
func (c *compiler) missing(s v1alpha1.Selector) string {
	matches := func(w *manifest.Workload) bool { return manifest.Matches(s, w) }
	if i := slices.IndexFunc(c.model.Outside, matches); i >= 0 {
		return fmt.Sprintf(": %s is not in it", c.model.Outside[i].Object)
	}
	return manifest.Candidates(s, c.model.Workloads)
}

// checkPeers warns of peers that are nobody, and of namespaces in which a rule opens nothing since all of them are.
func (c *compiler) checkPeers(rule int, field string, opened []*manifest.Workload, warn func(o report.Object, field, format string, args ...any)) {
	from := c.model.Spec.Authorization.Rules[rule].From
	guesses := ""
	for j, peer := range from {
		isAnybody := func(w *manifest.Workload) bool {
			return peer.SPIFFEID != "" || len(c.selected(peer.Selector, w.Namespace)) > 0
		}
		if len(opened) == 0 || slices.ContainsFunc(opened, isAnybody) {
			continue
		}
		selector := peer.Selector
		selector.Namespace = cmp.Or(selector.Namespace, opened[0].Namespace)
		guess := c.missing(selector)
		if guesses = cmp.Or(guesses, guess); !c.nobody(rule, opened) {
			warn(c.config, fmt.Sprintf("%s.from[%d]", field, j), "selects no workload of the mesh (without a namespace: of that of the workload)%s", guess)
		}
	}
	for _, w := range opened {
		if len(c.peers(rule, w.Namespace)) == 0 {
			warn(c.config, field+".from", "selects no workload of the mesh (without a namespace: of namespace %q), so the rule opens nothing of %s%s", w.Namespace, w.Object, guesses)
		}
	}
}

// nobody tells whether a rule lets nobody in anywhere.
func (c *compiler) nobody(rule int, opened []*manifest.Workload) bool {
	return !slices.ContainsFunc(opened, func(w *manifest.Workload) bool { return len(c.peers(rule, w.Namespace)) > 0 })
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
		ids = append(ids, c.selected(peer.Selector, namespace)...)
	}
	slices.Sort(ids)
	c.peerIDs[key] = slices.Compact(ids)
	return c.peerIDs[key]
}

// selected are the identities that the selector of a peer selects, for a rule that opens workloads of a namespace.
func (c *compiler) selected(selector v1alpha1.Selector, namespace string) (ids []string) {
	selector.Namespace = cmp.Or(selector.Namespace, namespace)
	for _, w := range c.model.Workloads {
		if manifest.Matches(selector, w) {
			ids = append(ids, w.ID.String())
		}
	}
	return ids
}

// ruleIn is an authorization rule, by its index, as it opens workloads of one namespace.
type ruleIn struct {
	rule      int
	namespace string
}
