package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ChainPrefix begins the name of each chain that we add to the nat tables of iptables.
const ChainPrefix = "MESHLESS_"

// Family is one of the two IP families: iptables has a nat table for each, where nftables has one table for both.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// builtin maps our chains to the hooks of iptables' nat table; ours is reached by a jump from there.
var builtin = map[string]string{Prerouting: "PREROUTING", Output: "OUTPUT"}

func ownChain(name string) string { return ChainPrefix + builtin[name] }

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

// IPTables is the set, for one family, as iptables-restore --noflush (or ip6tables-restore) reads it. The reasons are comments of the text: the
// extension that stores them in the kernel would be one more module that a node may lack.
func (s Ruleset) IPTables(f Family) string { return s.Restore(f, NAT{}) }

// Restore is IPTables for a nat table that holds something already: what it holds of ours is replaced in the same commit, so that no packet
// meets half a rule set, and what is not ours stays. Our jumps come first, or a rule of somebody else could decide before them.
func (s Ruleset) Restore(f Family, held NAT) string {
	var out strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	say("*nat")
	var own []string
	for _, c := range s.Chains {
		own = append(own, ownChain(c.Name))
		say(":%s - [0:0]", ownChain(c.Name)) // empties it, if it is there
	}
	out.WriteString(held.unjump())
	out.WriteString(held.drop(own))
	for _, c := range s.Of(f).Chains {
		why := ""
		for _, r := range c.Rules {
			if r.Why != why {
				why = r.Why
				say("# %s", why)
			}
			say("-A %s %s", ownChain(c.Name), r.IPTables())
		}
	}
	for _, c := range s.Chains {
		say("-I %s %s", builtin[c.Name], jump(c))
	}
	say("COMMIT")
	return out.String()
}

// jump leads from the hook to our chain. UDP and the rest do not even get there.
func jump(c Chain) string { return "-p tcp -j " + ownChain(c.Name) }

// IPTables is the rule as iptables-save prints it, without its chain.
func (r Rule) IPTables() string {
	var words []string
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if r.Source.IsValid() {
		say("-s %s/%d", r.Source, r.Source.BitLen())
	}
	if r.Dest.IsValid() && r.Dest.Bits() > 0 { // everything of the family, which is no condition
		not := ""
		if r.Outside {
			not = "! "
		}
		say("%s-d %s", not, r.Dest)
	}
	if r.In != "" {
		say("-i %s", r.In)
	}
	if r.Loopback {
		say("-o lo")
	}
	if r.Out != "" {
		say("-o %s", r.Out)
	}
	if r.Ports.First != 0 || r.RedirectTo != 0 {
		say("-p tcp")
	}
	switch {
	case r.Ports.First == 0:
	case r.Ports.First == r.Ports.Last:
		say("-m tcp --dport %d", r.Ports.First)
	default:
		say("-m tcp --dport %d:%d", r.Ports.First, r.Ports.Last)
	}
	if r.UID != 0 {
		say("-m owner --uid-owner %d", r.UID)
	}
	if r.RedirectTo != 0 {
		say("-j REDIRECT --to-ports %d", r.RedirectTo)
	} else {
		say("-j RETURN")
	}
	return strings.Join(words, " ")
}

func (r Rule) onlyIPv4() bool {
	return r.Source.Is4() || r.Dest.Addr().Is4()
}

// canonical is the rule without what iptables' text cannot hold: a destination that is every address, and the reason.
func (r Rule) canonical() Rule {
	if r.Dest.IsValid() && r.Dest.Bits() == 0 {
		r.Dest = netip.Prefix{}
	}
	r.Why = ""
	return r
}
