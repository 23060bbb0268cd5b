package rules

import (
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
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

// guard refuses what the chain output would have redirected and did not. NAT decides on a connection's first packet as
// conntrack sees it, and that is not always the socket's: the entry of a connection that the server reset lives on for
// ten seconds, and a new connection between the same addresses and ports gets what was decided for the old one. The
// proxy dials the address that the app dialed, so the app can inherit a way out, and the proxy a redirect to itself.
// This chain is asked for every packet, after NAT, and has no memory.
//
// Who opened the socket decides, and only where that is known: packets of sockets that are closed with data still to
// send, or in TIME_WAIT, have no owner, and cannot begin a connection. Answers go in the direction of reply. What is
// not TCP is not refused.
//
// A packet that NAT redirected has a loopback address here; the interface is still the one of its first route, hence no
// Loopback in the first two rules.
func guard(args podplan.InitArgs) []Rule {
	const dialsItself = "the proxy never dials itself: a stale entry of conntrack has redirected it"
	proxy, outbound := uint32(args.ProxyUID), netset.PortRange{First: api.OutboundPort, Last: api.OutboundPort}
	rules := []Rule{
		{UID: proxy, Dest: loopback4, Ports: outbound, Refuse: Reset, Why: dialsItself},
		{UID: proxy, Dest: loopback6, Ports: outbound, Refuse: Reset, Why: dialsItself},
		{UID: proxy, Why: "the proxy's own connections leave the pod"},
	}
	rules = append(rules, untouched(args)...)
	return append(rules,
		Rule{NotUID: proxy, Tracked: Original, Refuse: Reset, Why: "would leave the pod past the proxy"},
		Rule{NotUID: proxy, Tracked: Invalid, Refuse: Drop, Why: "unknown to conntrack, so it was not redirected"})
}

// Dropping is the set for a kernel that cannot answer with a reset: what the guard refuses is dropped.
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
