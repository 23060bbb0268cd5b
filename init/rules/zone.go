package rules

import (
	"fmt"

	"github.com/meshless-dev/meshless/internal/api"
)

// ZoneTable is the name of a table of family inet and of its one chain. The one rule puts the proxy's connections into
// a conntrack zone of their own. It knows them by the priority of their sockets. Without the zone, a connection of the
// app can meet a stale entry of one of the proxy's, and gets the NAT decision of that one: the egress filter then
// refuses it. With the zone it has an entry of its own, and is redirected.
//
// The table is a convenience and not part of a Ruleset. An app that gives its sockets the same priority gains nothing:
// the egress filter refuses it. The name is older than the words of this package; a running pod's may not change, or
// the next init would not replace it.
const ZoneTable = "meshless_apart"

// ZonePriority is the chain's place, before conntrack looks (NF_IP_PRI_RAW of linux/netfilter_ipv4.h).
const ZonePriority = -300

// ZoneWhy is the comment of the rule.
const ZoneWhy = "the proxy's connections have a zone of conntrack of their own"

// ZoneText is the table as nft prints it.
func ZoneText() string {
	return fmt.Sprintf("table inet %[1]s {\n\tchain %[1]s {\n\t\ttype filter hook %s priority %d; policy accept;\n\t\tmeta priority 0:%x ct original zone set %d comment %q\n\t}\n}\n",
		ZoneTable, Output, ZonePriority, api.ProxyPriority, api.ProxyZone, ZoneWhy)
}
