// Package rules decides which TCP connections of a pod pass through the proxy: it turns the command line of
// meshless-init into the chains that package apply puts into the kernel. It is pure and runs on any operating system,
// so that every configuration has a text golden (testdata/). docs/init.md says why the rules are as they are; tests of
// package apply and test/kernel measure them on a real kernel.
//
// What it promises: TCP from outside reaches the proxy's inbound port, TCP to outside reaches its outbound port,
// whatever the IP family, and what should and did not is refused; each exception is a rule that says why. What it does
// not touch: UDP and every other protocol, and what a pod says to itself over lo. A process of the proxy's user, or
// root with NET_ADMIN in the pod, can bypass it; docs/init.md has the whole list, and apply's bypass tests hold it.
package rules

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Table is the name of the table, of family inet, that holds all rules and nothing else.
const Table = "meshless"

// The chains. The first two are named like their hooks.
const (
	Prerouting   = "prerouting" // what arrives at the pod
	Output       = "output"     // what the pod sends
	EgressFilter = "guard"      // what the pod sends, after NAT
)

// The chains without a hook, to which rules of the others lead: the last rules of Output and EgressFilter stand there,
// so that the proxy's canaries meet the very rules that all else meets.
const (
	Outbound = "outbound"
	Refused  = "refused"
)

// The names of tables and chains that are in the kernel stay, whatever this package calls them: an init of a later
// release replaces and removes by name what an earlier one left in a running pod.

// Loopback is the interface through which a pod speaks to itself.
const Loopback = "lo"

// MaxWhy is how long nft lets a rule's comment be, in bytes (NFTNL_UDATA_COMMENT_MAXLEN).
const MaxWhy = 128

// Ruleset is all that meshless-init asks of the kernel's packet filter.
type Ruleset struct{ Chains []Chain }

// Chain is a base chain, or one to which rules of base chains lead. Its rules are tried in order, and what none decides
// is accepted as it is. The chains of type nat see the first packet of a connection only, so redirected connections
// survive a replacement of the rules; EgressFilter sees every packet.
type Chain struct {
	Name  string // one of the constants
	Rules []Rule
}

// Type is the kind of the chain in nftables, and the table of iptables that has it: nat or filter.
func (c Chain) Type() string {
	if c.Name == EgressFilter || c.Name == Refused {
		return "filter"
	}
	return "nat"
}

// Hook is where packets come to the chain: Prerouting or Output. It is empty for a chain to which rules lead.
func (c Chain) Hook() string {
	switch c.Name {
	case EgressFilter:
		return Output
	case Outbound, Refused:
		return ""
	}
	return c.Name
}

// Base tells whether packets come to the chain from a hook.
func (c Chain) Base() bool { return c.Hook() != "" }

// Priority is the chain's place among those of its hook: that of NAT, which nft calls dstnat in prerouting and by its
// number only in output, and for EgressFilter that of filter.
func (c Chain) Priority() int {
	if c.Name == EgressFilter {
		return 0
	}
	return -100
}

// Rule is one line of a chain: if every condition holds, the verdict is taken. A condition's zero value sets no
// condition.
type Rule struct {
	UID uint32 // user that opened the sending socket
	// the sending socket was opened by another user; one whose user is not known does not count
	NotUID  uint32
	Tracked Tracking         // what conntrack says of the packet
	In, Out string           // name of the interface through which it comes or leaves; Out may be Loopback
	Source  netip.Prefix     // network of the source
	Dest    netip.Prefix     // network of the destination
	NotDest netip.Prefix     // the destination is of its family, but not in it
	Ports   netset.PortRange // TCP destination port

	// The verdict; without one the rule returns: the connection stays as it is.
	RedirectTo uint16  // port of the proxy, and TCP only; 0 does not redirect
	Refuse     Refusal // of TCP only
	Goto       string  // Outbound or Refused, which decides

	Why string // for the operator, at most MaxWhy bytes; travels into the kernel and back
}

var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

// New is the rule set for a command line. Without ipv6 the rules that only IPv6 could match are left out, but for those
// of its loopback address; the redirects cover both families all the same, so that an IPv6 address that appears later
// is no way around the proxy and leads to it. A range of client addresses that the command line does not say is the
// default one. The pod's own addresses are needed with transparent ports alone. Values that podplan.ParseInitArgs would
// not return are errors: a rule for user 0 would let every process out.
func New(args podplan.InitArgs, ipv6 bool, own ...netip.Addr) (Ruleset, error) {
	if err := validate(args); err != nil {
		return Ruleset{}, err
	}
	args.ClientCIDRs = args.ClientCIDRs.WithDefaults()
	set := Ruleset{Chains: []Chain{{Prerouting, prerouting(args)}, {Output, output(args, own)}, {Outbound, outbound()}, {EgressFilter, egressFilter(args)}, {Refused, refused()}}}
	if !ipv6 {
		for i := range set.Chains {
			set.Chains[i].Rules = slices.DeleteFunc(set.Chains[i].Rules, func(r Rule) bool {
				return r.onlyIPv6() && (r.Source.IsValid() || r.Dest != loopback6) && r.NotDest != loopback6
			})
		}
	}
	return set, nil
}

func validate(args podplan.InitArgs) error {
	if err := args.Validate(); err != nil {
		return err
	}
	for _, ports := range []netset.Ports{args.ExcludeInboundPorts, args.ExcludeOutboundPorts} {
		if err := ports.Validate(); err != nil {
			return err
		}
	}
	if err := args.ExcludeOutboundCIDRs.Validate(); err != nil {
		return fmt.Errorf("--exclude-outbound-cidrs: %w", err)
	}
	return nil
}

// plaintextPorts are the ports that a peer reaches without the proxy: the proxy's own two that are plaintext by design,
// and those that the workload opted out. Excluding one of the proxy's other ports opens nothing: the outbound and admin
// listeners are bound to loopback, and the inbound one refuses a connection whose original destination is its own port.
func plaintextPorts(args podplan.InitArgs) (rules []Rule) {
	for _, r := range netset.PortsOf(api.MetricsPort, api.HealthPort) {
		rules = append(rules, Rule{Ports: r, Why: "metrics and health are plaintext"})
	}
	for _, r := range args.ExcludeInboundPorts {
		rules = append(rules, Rule{Ports: r, Why: "excluded inbound port"})
	}
	return rules
}

// prerouting has no exception by address, and one by interface only where the config names it. A packet from outside to
// 127.0.0.1 or ::6 is redirected as well: left alone, only the kernel's martian filter (off with route_localnet) would
// keep it from the loopback listeners. The proxy sees an original destination that is not the pod's address, or that is
// a port of its own, and refuses. What the pod sends to itself over lo passes this hook too, but its connection was
// decided in output already, and NAT decides once.
func prerouting(args podplan.InitArgs) []Rule {
	var rules []Rule
	// An exclusion must not reach what listens on loopback alone, the proxy's admin port included. IPv6 has no
	// route_localnet. Client addresses are local to the pod as well, and nobody's from outside.
	if len(args.ExcludeInboundPorts)+len(args.ExcludeInboundInterfaces) > 0 {
		rules = append(rules, Rule{Dest: loopback4, RedirectTo: api.InboundPort, Why: "to a loopback address, from outside: the proxy refuses"})
		for _, clients := range ranges(args) {
			rules = append(rules, Rule{Dest: clients, RedirectTo: api.InboundPort, Why: "to a client's address, from outside: the proxy refuses"})
		}
	}
	rules = append(rules, Rule{Ports: netset.PortRange{First: api.HealthPort, Last: api.HealthPort}, RedirectTo: api.MetricsPort,
		Why: "the proxy sees that this was redirected: a probe proves this chain"})
	rules = append(rules, plaintextPorts(args)...)
	for _, name := range args.ExcludeInboundInterfaces {
		rules = append(rules, Rule{In: name, Why: "excluded inbound interface"})
	}
	return append(rules, Rule{RedirectTo: api.InboundPort, Why: "all other TCP from outside passes the proxy"})
}

// output: the order matters. The proxy's own connections are decided before anything that an annotation excludes, and
// those from client addresses before the hairpin, or the proxy would dial itself for ever (istio#14443).
func output(args podplan.InitArgs, own []netip.Addr) (rules []Rule) {
	rules = redirectCanaries(args)
	for _, clients := range ranges(args) {
		rules = append(rules, Rule{UID: uint32(args.ProxyUID), Out: Loopback, Source: clients, Why: "the inbound proxy delivers to the app"})
	}
	rules = append(rules, transparent(args, own)...)
	rules = append(rules, hairpin(args)...)
	rules = append(rules, Rule{UID: uint32(args.ProxyUID), Why: "the proxy's own connections leave the pod, or it would dial itself"})
	rules = append(rules, bypass(args)...)
	return append(rules, Rule{Goto: Outbound, Why: "to outside"})
}

// outbound is what becomes of what output leaves.
func outbound() []Rule {
	return []Rule{{RedirectTo: api.OutboundPort, Why: "all other TCP to outside passes the proxy"}}
}

// ranges are those of the client addresses, which init makes local to the pod: the proxy dials the app from there.
func ranges(args podplan.InitArgs) []netip.Prefix {
	return []netip.Prefix{args.ClientCIDRs.V4, args.ClientCIDRs.V6}
}

// transparent: the proxy dials these ports of the app from its client's own address, which no rule can name. What comes
// from an address of the pod itself is the outbound proxy, which a Service has led back: see hairpin.
func transparent(args podplan.InitArgs, own []netip.Addr) (rules []Rule) {
	delivered := Rule{UID: uint32(args.ProxyUID), Out: Loopback}
	for _, ports := range args.TransparentPorts {
		for _, addr := range own {
			back := delivered
			back.Source, back.Ports, back.RedirectTo = netip.PrefixFrom(addr, addr.BitLen()), ports, api.InboundPort
			back.Why = "a Service of ours led back to this pod"
			rules = append(rules, back)
		}
		to := delivered
		to.Ports, to.Why = ports, "the inbound proxy delivers to the app, from the client's own address"
		rules = append(rules, to)
	}
	return rules
}

// bypass is what passes without the proxy although it is not the proxy's own: Output does not redirect it, and
// EgressFilter does not refuse it. It is one list, so that the two cannot differ.
func bypass(args podplan.InitArgs) []Rule {
	rules := []Rule{
		// App to own pod address: direct, since no peer is involved (istio#7563). It carries no more than localhost
		// does.
		{Out: Loopback, Why: "within the pod"},
		// Loopback addresses leave through lo, unless a policy route says otherwise; even then they are nobody else's.
		{Dest: loopback4, Why: "loopback addresses are the pod itself"},
		{Dest: loopback6, Why: "loopback addresses are the pod itself"},
	}
	for _, r := range args.ExcludeOutboundPorts {
		rules = append(rules, Rule{Ports: r, Why: "excluded outbound port"})
	}
	for _, p := range args.ExcludeOutboundCIDRs {
		rules = append(rules, Rule{Dest: p, Why: "excluded outbound network"})
	}
	for _, name := range args.ExcludeOutboundInterfaces {
		rules = append(rules, Rule{Out: name, Why: "excluded outbound interface"})
	}
	for _, uid := range args.ExcludeOutboundUIDs {
		rules = append(rules, Rule{UID: uint32(uid), Why: "excluded outbound user"})
	}
	return rules
}

// hairpin: the outbound proxy dialed a Service and the pod itself was chosen (a socket-level load balancer such as
// Cilium's rewrites the address before the packet exists). The server then must be the inbound proxy, which speaks TLS,
// as it would be for any other pod (istio#37890); and as for any other pod, the ports that peers reach without the
// proxy are reached without it.
func hairpin(args podplan.InitArgs) []Rule {
	rules := plaintextPorts(args)
	rules = append(rules,
		Rule{NotDest: loopback4, RedirectTo: api.InboundPort, Why: "a Service of ours led back to this pod"},
		Rule{NotDest: loopback6, RedirectTo: api.InboundPort, Why: "a Service of ours led back to this pod"},
	)
	for i := range rules {
		rules[i].UID, rules[i].Out = uint32(args.ProxyUID), Loopback
	}
	return rules
}

func (r Rule) onlyIPv4() bool {
	return r.Source.Addr().Is4() || r.Dest.Addr().Is4() || r.NotDest.Addr().Is4()
}

func (r Rule) onlyIPv6() bool {
	return r.Source.Addr().Is6() || r.Dest.Addr().Is6() || r.NotDest.Addr().Is6()
}
