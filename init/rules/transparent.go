package rules

import (
	"fmt"
	"strings"

	"github.com/meshless-dev/meshless/internal/netset"
)

// TransparentTable is the name of a table of family inet and of its first chain, which are there with transparent ports
// alone. The chain marks the app's answers from those ports: they are for the client's own address, and a rule of the
// routes brings what has the mark back to the proxy.
const TransparentTable = "meshless_transparent"

// TransparentPriority is the chain's place: conntrack has looked, and NAT not yet (NF_IP_PRI_MANGLE).
const TransparentPriority = -150

// TransparentMark is on the answers, and the number of the table of routes to which it leads. It ends with the packet.
const TransparentMark = 15000

// TransparentWhy is the comment of the rules.
const TransparentWhy = "the app answers its client: back to the proxy"

// TransparentKept is the name of the other chain, which drops what has the mark and would leave the pod: the answers
// are plaintext, and nothing but the rule of the routes keeps them inside.
const TransparentKept = "kept"

// TransparentKeptWhy is the comment of its rule.
const TransparentKeptWhy = "the answer is plaintext, and for the proxy alone"

// TransparentText is the table as nft prints it.
func TransparentText(ports netset.Ports) string {
	if len(ports) == 0 {
		return ""
	}
	var out strings.Builder
	fmt.Fprintf(&out, "table inet %[1]s {\n\tchain %[1]s {\n\t\ttype route hook %s priority %d; policy accept;\n", TransparentTable, Output, TransparentPriority)
	for _, r := range ports {
		fmt.Fprintf(&out, "\t\tct direction reply tcp sport %s meta mark set 0x%08x comment %q\n", r, TransparentMark, TransparentWhy)
	}
	fmt.Fprintf(&out, "\t}\n\n\tchain %s {\n\t\ttype filter hook postrouting priority 0; policy accept;\n\t\toifname != %q meta mark 0x%08x drop comment %q\n\t}\n}\n",
		TransparentKept, Loopback, TransparentMark, TransparentKeptWhy)
	return out.String()
}
