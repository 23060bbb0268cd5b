package apply

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
)

// zoneChain is the attributes of a chain of the table rules.ZoneTable.
func zoneChain(c rules.ZoneChain) ([]byte, error) {
	return attributes(
		text(unix.NFTA_CHAIN_TABLE, rules.ZoneTable), text(unix.NFTA_CHAIN_NAME, c.Name), text(unix.NFTA_CHAIN_TYPE, c.Type),
		nested(unix.NFTA_CHAIN_HOOK, number(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT), number(unix.NFTA_HOOK_PRIORITY, uint32(int32(c.Priority)))),
		number(unix.NFTA_CHAIN_POLICY, uint32(nftables.ChainPolicyAccept)))
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
