package rules

import (
	"net/netip"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// The canaries are connections of the proxy to itself, by which it proves that these rules are in force. Each begins
// and ends at the canary address of its family, which no client gets. They stand first in their chains, so that an
// exclusion of everything does not catch them, and lead to the chains that hold the last rules: what somebody puts in
// front, and what takes a chain or its last rule away, keeps a canary from its end.
//
// One is to the outbound port. Output redirects it, and it arrives at the proxy. The other is to a port at which the
// proxy listens at this address alone. NAT leaves it, and the egress filter has to refuse it.

const canaryWhy = "canary: the proxy proves by it that these rules are in force"

func canaries(args podplan.InitArgs) (addresses []netip.Prefix) {
	for _, clients := range ranges(args) {
		addr := clientaddr.Canary(clients)
		addresses = append(addresses, netip.PrefixFrom(addr, addr.BitLen()))
	}
	return addresses
}

var outboundPort = netset.PortRange{First: api.OutboundPort, Last: api.OutboundPort}

func redirectCanaries(args podplan.InitArgs) (rules []Rule) {
	for _, addr := range canaries(args) {
		rules = append(rules, Rule{UID: uint32(args.ProxyUID), Out: Loopback, Dest: addr, Ports: outboundPort, Goto: Outbound, Why: canaryWhy})
	}
	return rules
}

// filterCanaries let the first canary pass after its redirect, which the egress filter would take for a proxy that
// dials itself, and refuse the second.
func filterCanaries(args podplan.InitArgs) (rules []Rule) {
	for _, addr := range canaries(args) {
		loopback := loopback4
		if addr.Addr().Is6() {
			loopback = loopback6
		}
		rules = append(rules,
			Rule{UID: uint32(args.ProxyUID), Source: addr, Dest: loopback, Ports: outboundPort, Why: canaryWhy},
			Rule{UID: uint32(args.ProxyUID), Tracked: Original, Dest: addr, Goto: Refused, Why: canaryWhy})
	}
	return rules
}
