package apply

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
)

// setZone writes the table rules.ZoneTable, in one transaction, so that no packet meets it half made, and reads it
// back. A kernel without zones refuses it (noNFTables).
func setZone() error {
	rule, err := zoneRule()
	if err != nil {
		return err
	}
	batch, err := zoneBatch(rule)
	if err != nil {
		return err
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return explainNFTables("open netlink", err)
	}
	defer conn.Close()
	if err := configure(conn); err != nil {
		return err
	}
	if _, err = conn.SendMessages(batch); err == nil {
		err = acknowledged(conn, len(batch)-2) // all but the beginning and the end
	}
	if err != nil {
		return explain("write table inet "+rules.ZoneTable, err)
	}
	return checkZone(conn, rule)
}

// noZones is what is printed where there is no such chain because of this error.
func noZones(err error) string {
	return fmt.Sprintf("# this kernel has no zones of conntrack (%s): a connection that gets the port of one of the proxy's, which a server has reset, is refused\n", cause(err))
}

// acknowledged receives n answers, and returns the first that is an error.
func acknowledged(conn *netlink.Conn, n int) error {
	for n > 0 {
		answers, err := conn.Receive() // an answer that is an error comes as one
		if err != nil {
			return err
		}
		n -= len(answers)
	}
	return nil
}

// zoneBatch is the transaction. github.com/google/nftables cannot say "original" of a zone (NFTA_CT_DIRECTION), and a
// zone for both directions would lose the answers, so the messages are built here, of its expressions where it has
// them.
func zoneBatch(rule []byte) ([]netlink.Message, error) {
	table, err := attributes(text(unix.NFTA_TABLE_NAME, rules.ZoneTable))
	if err != nil {
		return nil, err
	}
	chain, err := zoneChain()
	if err != nil {
		return nil, err
	}
	const change = netlink.Request | netlink.Acknowledge | netlink.Create
	return []netlink.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, netlink.Request, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil),
		// or there may be none to delete
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, change, unix.NFPROTO_INET, 0, table),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, netlink.Request|netlink.Acknowledge, unix.NFPROTO_INET, 0, table),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, change, unix.NFPROTO_INET, 0, table),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWCHAIN, change, unix.NFPROTO_INET, 0, chain),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE, change|netlink.Append, unix.NFPROTO_INET, 0, rule),
		message(unix.NFNL_MSG_BATCH_END, netlink.Request, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil),
	}, nil
}

// zoneChain is the attributes of the chain.
func zoneChain() ([]byte, error) {
	return attributes(
		text(unix.NFTA_CHAIN_TABLE, rules.ZoneTable), text(unix.NFTA_CHAIN_NAME, rules.ZoneTable), text(unix.NFTA_CHAIN_TYPE, "filter"),
		nested(unix.NFTA_CHAIN_HOOK, number(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT), priority(rules.ZonePriority)),
		number(unix.NFTA_CHAIN_POLICY, uint32(nftables.ChainPolicyAccept)))
}

// zoneRule is the attributes of the rule.
func zoneRule() ([]byte, error) {
	expressions, err := zoneExpressions()
	if err != nil {
		return nil, err
	}
	return attributes(
		text(unix.NFTA_RULE_TABLE, rules.ZoneTable), text(unix.NFTA_RULE_CHAIN, rules.ZoneTable), expressions,
		netlink.Attribute{Type: unix.NFTA_RULE_USERDATA, Data: userdata.AppendString(nil, userdata.TypeComment, rules.ZoneWhy)})
}

// zoneExpressions are those of: meta priority 0:4 ct original zone set 15000.
func zoneExpressions() (netlink.Attribute, error) {
	var list []netlink.Attribute
	for _, e := range []expr.Any{
		meta(expr.MetaKeyPRIORITY), equal(binary.NativeEndian.AppendUint32(nil, api.ProxyPriority)),
		&expr.Immediate{Register: register, Data: binary.NativeEndian.AppendUint16(nil, api.ProxyZone)},
	} {
		data, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			return netlink.Attribute{}, err
		}
		list = append(list, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: data})
	}
	const original = 0 // IP_CT_DIR_ORIGINAL
	list = append(list, nested(unix.NFTA_LIST_ELEM, text(unix.NFTA_EXPR_NAME, "ct"), nested(unix.NFTA_EXPR_DATA,
		number(unix.NFTA_CT_KEY, uint32(expr.CtKeyZONE)), number(unix.NFTA_CT_SREG, register), netlink.Attribute{Type: unix.NFTA_CT_DIRECTION, Data: []byte{original}})))
	return nested(unix.NFTA_RULE_EXPRESSIONS, list...), nil
}

// message is one of nfnetlink: a header of family, version and resource before the attributes
// (linux/netfilter/nfnetlink.h).
func message(kind int, flags netlink.HeaderFlags, family byte, resource uint16, attributes []byte) netlink.Message {
	header := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: flags}, Data: append(header, attributes...)}
}

func attributes(list ...netlink.Attribute) ([]byte, error) { return netlink.MarshalAttributes(list) }

func nested(kind uint16, list ...netlink.Attribute) netlink.Attribute {
	data, err := attributes(list...)
	if err != nil {
		panic(fmt.Sprintf("attributes of this size are never too long: %v", err))
	}
	return netlink.Attribute{Type: unix.NLA_F_NESTED | kind, Data: data}
}

func text(kind uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: append([]byte(s), 0)}
}

func number(kind uint16, n uint32) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: binary.BigEndian.AppendUint32(nil, n)}
}

func priority(n int32) netlink.Attribute {
	return number(unix.NFTA_HOOK_PRIORITY, uint32(n))
}
