package rules

import (
	"fmt"

	"github.com/meshless-dev/meshless/internal/api"
)

// Apart is the table of family inet, and the chain in it, that keeps the proxy's connections in a zone of conntrack of
// their own, by the priority of their sockets, so that no connection of the app inherits what was decided for one of
// them: it is redirected as any other, where the guard alone would refuse it. It has one rule and stands beside the
// Ruleset, since it is no part of what keeps traffic in: an app that gives its own sockets the same priority meets the
// guard.
const Apart = "meshless_apart"

// ApartPriority is the chain's place, before conntrack looks (NF_IP_PRI_RAW of linux/netfilter_ipv4.h).
const ApartPriority = -300

// ApartWhy is the comment of its rule.
const ApartWhy = "the proxy's connections have a zone of conntrack of their own"

// ApartText is the table as nft prints it.
func ApartText() string {
	return fmt.Sprintf("table inet %[1]s {\n\tchain %[1]s {\n\t\ttype filter hook %s priority %d; policy accept;\n\t\tmeta priority 0:%x ct original zone set %d comment %q\n\t}\n}\n",
		Apart, Output, ApartPriority, api.ProxyPriority, api.ProxyZone, ApartWhy)
}
