package rules

import (
	"fmt"
	"strings"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
)

// ZoneTable is the name of a table of family inet and of its first chain, which puts the proxy's connections into a
// conntrack zone of their own. Without the zone, a connection of the app can meet a stale entry of one of the proxy's,
// and gets the NAT decision of that one: the egress filter then refuses it. With the zone it has an entry of its own,
// and is redirected.
//
// Nothing that an app may set decides. The owner of the socket does: the packets of other users never have the zone,
// whatever priority they carry. A packet without an owner, of a socket that was closed with data still to send or that
// is in TIME_WAIT, has no user. Then the priority is a guess, and it is put right where it is wrong: a packet that the
// zone does not know is not the proxy's. ZoneLearn notes its addresses and ports and drops it. The kernel sends it
// again, and it finds the app's connection. IP_TOS cannot make the priority of the proxy's sockets, so only an app that
// asks for that priority itself pays the retransmission. ZoneStale drops what the zone takes for no part of a
// connection that it knows: an app's packet has met a stale entry of the proxy's, and would leave the pod past it.
// It also takes the priority off again.
//
// The table is a convenience and not part of a Ruleset. Its name is older than the words of this package; a running
// pod's may not change, or the next init would not replace it.
const ZoneTable = "meshless_apart"

// ZoneLearn is the name of the other chain. It is of type nat, so that it is asked for new connections alone.
const ZoneLearn = "learn"

// ZoneStale is the name of the third chain.
const ZoneStale = "stale"

// noOwner is what no socket has as its user: a comparison with it holds for every socket that has one.
const noOwner = 1<<32 - 1

// The sets of what ZoneLearn noted, by family.
const (
	ZoneApps4 = "apps4"
	ZoneApps6 = "apps6"
)

// The limits of the sets. What is forgotten is learned again.
const (
	ZoneMemory = time.Minute
	ZoneSize   = 16384
)

// ZoneChain is a chain of the table, of the hook Output.
type ZoneChain struct {
	Name, Type string
	Priority   int
}

// ZoneChains are those of the table: one before conntrack looks (NF_IP_PRI_RAW of linux/netfilter_ipv4.h), one after
// it, and one before the redirect.
var ZoneChains = []ZoneChain{{ZoneTable, "filter", -300}, {ZoneStale, "filter", -150}, {ZoneLearn, "nat", -110}}

// ZoneRule is a rule of the table, as nft prints it and with its comment.
type ZoneRule struct{ Chain, Text, Why string }

// ZoneRules are those of all chains, in their order.
func ZoneRules(proxy uint32) []ZoneRule {
	const tuple4, tuple6 = "ip saddr . tcp sport . ip daddr . tcp dport", "ip6 saddr . tcp sport . ip6 daddr . tcp dport"
	const learned, noted = "without an owner, and an app's: its chain learn has seen it", "without an owner, and not the proxy's, or the zone would know it"
	others := fmt.Sprintf("meta priority != 0:%x return", api.ProxyPriority)
	return []ZoneRule{
		{ZoneTable, others, "not a connection with which the proxy leaves the pod"},
		{ZoneTable, fmt.Sprintf("meta skuid %d ct original zone set %d return", proxy, api.ProxyZone), "the proxy's connections have a zone of conntrack of their own"},
		{ZoneTable, fmt.Sprintf("meta skuid != %d return", proxy), "an app's, whatever priority it asks for"},
		{ZoneTable, "tcp flags syn / syn,ack return", "without an owner, and new: not the proxy's"},
		{ZoneTable, tuple4 + " @" + ZoneApps4 + " return", learned},
		{ZoneTable, tuple6 + " @" + ZoneApps6 + " return", learned},
		{ZoneTable, fmt.Sprintf("meta l4proto tcp ct original zone set %d", api.ProxyZone), "without an owner: of a socket that the proxy has closed"},
		{ZoneStale, others, "not in the proxy's zone"},
		{ZoneStale, "meta priority set none", "it was for these rules: queues treat it as any other packet"},
		{ZoneStale, "ct state != invalid return", "a part of its connection, or a new one"},
		{ZoneStale, fmt.Sprintf("meta skuid != %d return", noOwner), "its owner says whose it is"},
		{ZoneStale, "meta l4proto tcp drop", "without an owner, and met a stale entry of the proxy's"},
		{ZoneLearn, fmt.Sprintf("ct original zone != %d return", api.ProxyZone), "not in the proxy's zone"},
		{ZoneLearn, fmt.Sprintf("meta skuid %d return", proxy), "a new connection of the proxy's"},
		{ZoneLearn, "update @" + ZoneApps4 + " { " + tuple4 + " }", noted},
		{ZoneLearn, "update @" + ZoneApps6 + " { " + tuple6 + " }", noted},
		{ZoneLearn, "drop", "it is sent again, and is then an app's"},
	}
}

// ZoneText is the table as nft prints it.
func ZoneText(proxy uint32) string {
	var out strings.Builder
	fmt.Fprintf(&out, "table inet %s {\n", ZoneTable)
	for _, set := range []struct{ name, address string }{{ZoneApps4, "ipv4_addr"}, {ZoneApps6, "ipv6_addr"}} {
		fmt.Fprintf(&out, "\tset %s {\n\t\ttype %[2]s . inet_service . %[2]s . inet_service\n\t\tsize %d\n\t\tflags dynamic,timeout\n\t\ttimeout %dm\n\t}\n\n",
			set.name, set.address, ZoneSize, int(ZoneMemory.Minutes()))
	}
	for i, c := range ZoneChains {
		if i > 0 {
			out.WriteString("\n")
		}
		fmt.Fprintf(&out, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy accept;\n", c.Name, c.Type, Output, c.Priority)
		for _, r := range ZoneRules(proxy) {
			if r.Chain == c.Name {
				fmt.Fprintf(&out, "\t\t%s comment %q\n", r.Text, r.Why)
			}
		}
		out.WriteString("\t}\n")
	}
	return out.String() + "}\n"
}
