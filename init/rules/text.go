package rules

import (
	"fmt"
	"strings"
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
	fmt.Fprintf(&out, "\tchain %s {\n", c.Name)
	if c.Base() {
		fmt.Fprintf(&out, "\t\ttype %s hook %s priority %d; policy accept;\n", c.Type(), c.Hook(), c.Priority())
	}
	for _, r := range c.Rules {
		fmt.Fprintf(&out, "\t\t%s\n", r)
	}
	out.WriteString("\t}\n")
	return out.String()
}
