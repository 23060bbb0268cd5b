package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ChainPrefix begins the name of each chain that we add to the tables of iptables.
const ChainPrefix = "MESHLESS_"

// Family is one of the two IP families: iptables has its tables for each, where nftables has one table for both.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Tables are those of iptables that hold chains of ours, in the order in which they are written, one commit each: the
// egress filter comes first, so that what is not redirected yet is refused.
var Tables = []string{"filter", "nat"}

// builtin is the chain of iptables from which a jump leads to ours.
func (c Chain) builtin() string { return strings.ToUpper(c.Hook()) }

// own is the chain's name in iptables.
func (c Chain) own() string { return ChainPrefix + strings.ToUpper(c.Name) }

// in are the chains that belong to a table of iptables.
func (s Ruleset) in(table string) []Chain {
	return slices.DeleteFunc(slices.Clone(s.Chains), func(c Chain) bool { return c.Type() != table })
}

// base are those of them that a built-in chain leads to.
func (s Ruleset) base(table string) []Chain {
	return slices.DeleteFunc(s.in(table), func(c Chain) bool { return !c.Base() })
}

// String is the family as operators write it.
func (f Family) String() string { return "IPv" + strconv.Itoa(int(f)) }

// Program is the name of the family's iptables, with a suffix like "-nft-restore".
func (f Family) Program(suffix string) string {
	if f == IPv6 {
		return "ip6tables" + suffix
	}
	return "iptables" + suffix
}

// Of is the set without the rules that packets of the family never match.
func (s Ruleset) Of(f Family) Ruleset {
	of := Ruleset{Chains: slices.Clone(s.Chains)}
	for i, c := range of.Chains {
		of.Chains[i].Rules = slices.DeleteFunc(slices.Clone(c.Rules), func(r Rule) bool {
			return f == IPv4 && r.onlyIPv6() || f == IPv6 && r.onlyIPv4()
		})
	}
	return of
}

// IPTables is the set, for one family, as iptables-restore --noflush (or ip6tables-restore) reads it. The reasons are
// comments of the text: the extension that stores them in the kernel would be one more module that a node may lack.
func (s Ruleset) IPTables(f Family) string { return s.Restore(f, nil) }

// Restore is IPTables for tables that hold something already: what they hold of ours is replaced in the same commit, so
// that no packet meets half a chain, and what is not ours stays. Our jumps come first, or a rule of somebody else could
// decide before them.
func (s Ruleset) Restore(f Family, held Held) string {
	var out strings.Builder
	for _, table := range Tables {
		s.Of(f).restore(&out, table, held[table])
	}
	return out.String()
}

func (s Ruleset) restore(out *strings.Builder, table string, held Saved) {
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	say("*%s", table)
	var own []string
	for _, c := range s.in(table) {
		own = append(own, c.own())
		say(":%s - [0:0]", c.own()) // empties it, if it is there
	}
	out.WriteString(held.unjump())
	out.WriteString(held.drop(own))
	for _, c := range s.in(table) {
		why := ""
		for _, r := range c.Rules {
			if r.Why != why {
				why = r.Why
				say("# %s", why)
			}
			say("-A %s %s", c.own(), r.IPTables())
		}
	}
	for _, c := range s.base(table) {
		say("-I %s %s", c.builtin(), jump(c))
	}
	say("COMMIT")
}

// jump leads from the hook to our chain. UDP and the rest do not even get there.
func jump(c Chain) string { return "-p tcp -j " + c.own() }

// canonical is the rule without what iptables' text cannot hold: a destination that is every address, and the reason.
func (r Rule) canonical() Rule {
	if r.Dest.IsValid() && r.Dest.Bits() == 0 {
		r.Dest = netip.Prefix{}
	}
	r.Why = ""
	return r
}
