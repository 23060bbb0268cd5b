package apply

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
)

// headerLength is that of nfnetlink's own header, before the attributes.
const headerLength = 4

// check reads the table rules.ZoneTable back: its sets, its chains, with the place and the policy that were meant, and
// the rules in their order. It is an error if the kernel holds anything else.
func (t zoneTable) check(conn *netlink.Conn) error {
	for _, part := range []struct {
		name  string
		kind  int
		of    uint16
		meant [][]byte
		text  func([]byte) (string, error)
	}{
		{"set", unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE, t.sets, func(data []byte) (string, error) { return meaning(data, keptOfSet) }},
		{"chain", unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, t.chains, func(data []byte) (string, error) { return meaning(data, keptOfChain) }},
		{"rule", unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, t.rules, ruleMeaning},
	} {
		held, err := dumpZone(conn, part.kind, text(part.of, rules.ZoneTable))
		if err != nil {
			return err
		}
		if len(held) != len(part.meant) {
			return fmt.Errorf("table inet %s holds %d %ss instead of %d: is something else writing to it?", rules.ZoneTable, len(held), part.name, len(part.meant))
		}
		for i, meant := range part.meant {
			got, err := part.text(held[i])
			if err != nil {
				return fmt.Errorf("read a %s of table inet %s back: %w", part.name, rules.ZoneTable, err)
			}
			want, err := part.text(meant)
			if err != nil {
				return err
			}
			if got != want {
				return fmt.Errorf("table inet %s differs from what was written: its %s %d is %s, meant was %s", rules.ZoneTable, part.name, i+1, got, want)
			}
		}
	}
	return nil
}

// dumpZone is the attributes of all objects of a kind that the kernel holds in the table. The kernel lists chains of
// every table of the family.
func dumpZone(conn *netlink.Conn, kind int, of netlink.Attribute) ([][]byte, error) {
	query, err := attributes(of)
	if err != nil {
		return nil, err
	}
	answers, err := conn.Execute(message(unix.NFNL_SUBSYS_NFTABLES<<8|kind, netlink.Request|netlink.Dump, unix.NFPROTO_INET, 0, query))
	if err != nil {
		return nil, explain("read table inet "+rules.ZoneTable+" back", err)
	}
	var found [][]byte
	for _, a := range answers {
		if len(a.Data) < headerLength {
			return nil, fmt.Errorf("read table inet %s back: an answer of %d bytes", rules.ZoneTable, len(a.Data))
		}
		all, err := netlink.UnmarshalAttributes(a.Data[headerLength:])
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(all, func(a netlink.Attribute) bool { return kindOf(a) == of.Type && bytes.Equal(a.Data, of.Data) }) {
			found = append(found, a.Data[headerLength:])
		}
	}
	return found, nil
}

// kindOf is an attribute's type without the flags that its writer may leave out.
func kindOf(a netlink.Attribute) uint16 {
	return a.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
}

// kept is which attributes mean something, and of those that hold others, which of them; handles and counters are the
// kernel's.
type kept map[uint16]kept

var keptOfSet = kept{unix.NFTA_SET_NAME: nil, unix.NFTA_SET_FLAGS: nil, unix.NFTA_SET_KEY_TYPE: nil, unix.NFTA_SET_KEY_LEN: nil, unix.NFTA_SET_TIMEOUT: nil,
	unix.NFTA_SET_DESC: {unix.NFTA_SET_DESC_SIZE: nil}}

var keptOfChain = kept{unix.NFTA_CHAIN_NAME: nil, unix.NFTA_CHAIN_TYPE: nil, unix.NFTA_CHAIN_POLICY: nil,
	unix.NFTA_CHAIN_HOOK: {unix.NFTA_HOOK_HOOKNUM: nil, unix.NFTA_HOOK_PRIORITY: nil}}

// keptOf are those of the expressions of the rules.
var keptOf = map[string]kept{
	"meta":      {unix.NFTA_META_DREG: nil, unix.NFTA_META_KEY: nil, unix.NFTA_META_SREG: nil},
	"cmp":       {unix.NFTA_CMP_SREG: nil, unix.NFTA_CMP_OP: nil, unix.NFTA_CMP_DATA: {unix.NFTA_DATA_VALUE: nil}},
	"immediate": {unix.NFTA_IMMEDIATE_DREG: nil, unix.NFTA_IMMEDIATE_DATA: {unix.NFTA_DATA_VALUE: nil, unix.NFTA_DATA_VERDICT: nil}},
	"payload":   {unix.NFTA_PAYLOAD_DREG: nil, unix.NFTA_PAYLOAD_BASE: nil, unix.NFTA_PAYLOAD_OFFSET: nil, unix.NFTA_PAYLOAD_LEN: nil},
	"bitwise":   {unix.NFTA_BITWISE_SREG: nil, unix.NFTA_BITWISE_DREG: nil, unix.NFTA_BITWISE_MASK: {unix.NFTA_DATA_VALUE: nil}, unix.NFTA_BITWISE_XOR: {unix.NFTA_DATA_VALUE: nil}},
	"lookup":    {unix.NFTA_LOOKUP_SET: nil, unix.NFTA_LOOKUP_SREG: nil, unix.NFTA_LOOKUP_DREG: nil, unix.NFTA_LOOKUP_FLAGS: nil},
	"dynset":    {unix.NFTA_DYNSET_SET_NAME: nil, unix.NFTA_DYNSET_SREG_KEY: nil, unix.NFTA_DYNSET_SREG_DATA: nil, unix.NFTA_DYNSET_OP: nil, unix.NFTA_DYNSET_FLAGS: nil},
	"ct":        {unix.NFTA_CT_DREG: nil, unix.NFTA_CT_KEY: nil, unix.NFTA_CT_DIRECTION: nil, unix.NFTA_CT_SREG: nil},
}

// meaning is a text for attributes that is the same for those that mean the same, in whatever order they come.
func meaning(attributes []byte, what kept) (string, error) {
	all, err := netlink.UnmarshalAttributes(attributes)
	if err != nil {
		return "", err
	}
	slices.SortStableFunc(all, func(a, b netlink.Attribute) int { return cmp.Compare(kindOf(a), kindOf(b)) })
	var parts []string
	for _, a := range all {
		inner, means := what[kindOf(a)]
		switch {
		case !means:
		case inner == nil:
			parts = append(parts, fmt.Sprintf("%d:%x", kindOf(a), a.Data))
		default:
			text, err := meaning(a.Data, inner)
			if err != nil {
				return "", err
			}
			parts = append(parts, fmt.Sprintf("%d:{%s}", kindOf(a), text))
		}
	}
	return strings.Join(parts, " "), nil
}

// ruleMeaning is that of its chain, of its expressions, in their order, and of its comment.
func ruleMeaning(attributes []byte) (string, error) {
	all, err := netlink.UnmarshalAttributes(attributes)
	if err != nil {
		return "", err
	}
	var chain, expressions, comment string
	for _, a := range all {
		switch kindOf(a) {
		case unix.NFTA_RULE_CHAIN:
			chain = strings.TrimRight(string(a.Data), "\x00") + " "
		case unix.NFTA_RULE_USERDATA:
			comment = fmt.Sprintf(" %q", a.Data)
		case unix.NFTA_RULE_EXPRESSIONS:
			list, err := netlink.UnmarshalAttributes(a.Data)
			if err != nil {
				return "", err
			}
			for _, e := range list {
				text, err := expressionMeaning(e.Data)
				if err != nil {
					return "", err
				}
				expressions += "[" + text + "]"
			}
		}
	}
	return chain + expressions + comment, nil
}

func expressionMeaning(attributes []byte) (string, error) {
	all, err := netlink.UnmarshalAttributes(attributes)
	if err != nil {
		return "", err
	}
	var name, text string
	for _, a := range all { // the name comes first
		switch kindOf(a) {
		case unix.NFTA_EXPR_NAME:
			name = strings.TrimRight(string(a.Data), "\x00")
		case unix.NFTA_EXPR_DATA:
			if text, err = meaning(a.Data, keptOf[name]); err != nil {
				return "", err
			}
		}
	}
	return name + " " + text, nil
}
