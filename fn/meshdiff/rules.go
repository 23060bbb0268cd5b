package meshdiff

import (
	"cmp"
	"strings"

	"github.com/meshless-dev/meshless/fn/graph"
	"github.com/meshless-dev/meshless/fn/policy"
	"github.com/meshless-dev/meshless/internal/netset"
)

// anyMesh stands for every identity of the trust domain, where no rule names a workload and the default lets them in.
const anyMesh = "*"

// call is a rule: who, a SPIFFE ID or a pattern, may call the workloads of a SPIFFE ID.
type call struct{ from, to string }

// compareRules compares who may call whom, as the mesh maps say it. Rules of a workload that is gone go with it.
func (c *comparison) compareRules() {
	before, now := c.base.calls(), c.head.calls()
	known, there := c.base.names(), c.head.names()
	for rule, ports := range now {
		ports = ports.Minus(before[rule])
		if len(ports) == 0 || there[rule.to] == "" {
			continue
		}
		everybody := rule.from == anyMesh || rule.from == policy.AnyMember(c.head.graph.TrustDomain)
		c.sayIf(rules, everybody && known[rule.to] != "", Weaker, Gained, "%s may be called by %s on %s", there[rule.to], c.caller(rule.from, there, known), portsText(ports))
	}
	for rule, ports := range before {
		if ports = ports.Minus(now[rule]); len(ports) > 0 && there[rule.to] != "" {
			c.say(rules, Lost, "%s may be called by %s on %s no longer", there[rule.to], c.caller(rule.from, there, known), portsText(ports))
		}
	}
}

// calls are the rules of a side with their ports.
func (s *Side) calls() map[call]netset.Ports {
	calls := map[call]netset.Ports{}
	for _, m := range s.maps {
		for _, p := range m.Inbound.Policy {
			for _, rule := range p.Rules {
				for _, from := range rule.From {
					key := call{from, p.Workload}
					calls[key] = calls[key].Union(portsOf(rule.Ports))
				}
			}
		}
	}
	for _, n := range s.graph.Nodes {
		if n.Access == graph.ByDefault {
			calls[call{anyMesh, n.Identity}] = everyPort
		}
	}
	return calls
}

// names are the workloads of the mesh by SPIFFE ID.
func (s *Side) names() map[string]string {
	names := map[string]string{}
	for _, n := range s.graph.Nodes {
		if n.Class == graph.Mesh && names[n.Identity] == "" {
			names[n.Identity] = nameOf(n)
		}
	}
	return names
}

// caller names who may call: a workload of either side, or an identity as a rule writes it.
func (c *comparison) caller(from string, there, known map[string]string) string {
	if name := cmp.Or(there[from], known[from]); name != "" {
		return name
	}
	for _, s := range []*Side{c.head, c.base} {
		if from == anyMesh || from == policy.AnyMember(s.graph.TrustDomain) {
			return "any identity of the mesh"
		}
		if own, ok := strings.CutPrefix(from, "spiffe://"+s.graph.TrustDomain+"/"); ok {
			return own
		}
	}
	return from
}
