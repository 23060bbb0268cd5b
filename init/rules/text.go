package rules

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/meshless-dev/meshless/internal/netset"
)

// String is the rule set as `nft list table inet meshless` prints it, and as `nft -f` reads it.
func (s Ruleset) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "table inet %s {\n", Table)
	for i, c := range s.Chains {
		if i > 0 {
			out.WriteString("\n")
		}
		out.WriteString(c.String())
	}
	out.WriteString("}\n")
	return out.String()
}

// String is the chain as nft prints it within its table.
func (c Chain) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy accept;\n", c.Name, c.Type(), c.Hook(), c.Priority())
	for _, r := range c.Rules {
		fmt.Fprintf(&out, "\t\t%s\n", r)
	}
	out.WriteString("\t}\n")
	return out.String()
}

// String is the rule as nft prints it.
func (r Rule) String() string {
	var words []string
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if r.UID != 0 {
		say("meta skuid %d", r.UID)
	}
	if r.NotUID != 0 {
		say("meta skuid != %d", r.NotUID)
	}
	switch r.Tracked {
	case Original:
		say("ct direction original")
	case Invalid:
		say("ct state invalid")
	}
	if r.In != "" {
		say(`iifname "%s"`, r.In)
	}
	if r.Loopback {
		say(`oifname "lo"`)
	}
	if r.Out != "" {
		say(`oifname "%s"`, r.Out)
	}
	if r.Source.IsValid() {
		say("%s saddr %s", family(r.Source), r.Source)
	}
	if r.Dest.IsValid() {
		not := ""
		if r.Outside {
			not = "!= "
		}
		say("%s daddr %s%s", family(r.Dest.Addr()), not, network(r.Dest))
	}
	switch {
	case r.Ports.First != 0:
		say("tcp dport %s", netset.Ports{r.Ports})
	case r.onlyTCP():
		say("meta l4proto tcp")
	}
	switch {
	case r.RedirectTo != 0:
		say("redirect to :%d", r.RedirectTo)
	case r.Refuse == Reset:
		say("reject with tcp reset")
	case r.Refuse == Drop:
		say("drop")
	default:
		say("return")
	}
	if r.Why != "" {
		say("comment \"%s\"", r.Why) // nft has no escapes: a comment holds no double quote
	}
	return strings.Join(words, " ")
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "ip"
	}
	return "ip6"
}

func network(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
