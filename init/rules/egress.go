package rules

import (
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Refusal is what becomes of a packet that may not pass. The zero value refuses nothing.
type Refusal int

// The refusals.
const (
	Reset Refusal = iota + 1 // the sender gets a TCP reset, and its program an error at once
	Drop                     // nothing is answered
)

// Tracking is what conntrack says of a packet. The zero value asks nothing.
type Tracking int

// The answers. A packet that is not to be tracked is neither.
const (
	Original Tracking = iota + 1 // goes in the direction of its connection's first packet
	Invalid                      // belongs to no connection, so that no NAT was done
)

// egressFilter refuses what the chain output should have redirected and did not. NAT decides once for each conntrack
// entry, and an entry can outlive its connection: after a reset by the server it stays for ten seconds. A new
// connection between the same addresses and ports then gets the old decision. The proxy dials the address that the app
// dialed, so the app can inherit the proxy's way out, and the proxy the app's redirect. This chain sees every packet,
// after NAT, and has no state.
//
// The owner of the socket decides, where there is one. A packet of a socket that was closed with data still to send, or
// that is in TIME_WAIT, has no owner; such a socket cannot open a connection. Answers have the direction reply and
// pass. Only TCP is refused.
//
// A redirected packet has a loopback address here, but still the interface of its first route. So the first two rules
// do not ask for Loopback.
func egressFilter(args podplan.InitArgs) []Rule {
	const dialsItself = "the proxy never dials itself: a stale entry of conntrack has redirected it"
	proxy := uint32(args.ProxyUID)
	rules := append(filterCanaries(args),
		Rule{UID: proxy, Dest: loopback4, Ports: outboundPort, Refuse: Reset, Why: dialsItself},
		Rule{UID: proxy, Dest: loopback6, Ports: outboundPort, Refuse: Reset, Why: dialsItself},
		Rule{UID: proxy, Why: "the proxy's own connections leave the pod"})
	rules = append(rules, impersonation(args)...)
	rules = append(rules, bypass(args)...)
	return append(rules,
		Rule{NotUID: proxy, Tracked: Original, Goto: Refused, Why: "would leave the pod past the proxy"},
		Rule{NotUID: proxy, Tracked: Invalid, Refuse: Drop, Why: "unknown to conntrack, so it was not redirected"})
}

// refused is what becomes of what may not leave.
func refused() []Rule {
	return []Rule{{Refuse: Reset, Why: "not past the proxy"}}
}

// impersonation refuses what only the proxy may do with client addresses. A process of the pod that takes one would be
// another pod to the app. Nobody is there to be dialed: they are local, so whoever dials one, as an app may that calls
// its client back, would meet the pod itself. Answers to the proxy have the direction reply and pass.
func impersonation(args podplan.InitArgs) (rules []Rule) {
	for _, clients := range ranges(args) {
		refused := Rule{NotUID: uint32(args.ProxyUID), Tracked: Original, Refuse: Reset}
		from, to := refused, refused
		from.Source, from.Why = clients, "only the proxy speaks from a client's address"
		to.Dest, to.Why = clients, "the client itself is not at the address that the app sees"
		rules = append(rules, from, to)
	}
	return rules
}

// Dropping is the set for a kernel that cannot answer with a reset: what the egress filter refuses is dropped.
func (s Ruleset) Dropping() Ruleset {
	dropping := Ruleset{}
	for _, c := range s.Chains {
		of := Chain{Name: c.Name}
		for _, r := range c.Rules {
			if r.Refuse == Reset {
				r.Refuse = Drop
			}
			of.Rules = append(of.Rules, r)
		}
		dropping.Chains = append(dropping.Chains, of)
	}
	return dropping
}
