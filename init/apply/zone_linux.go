package apply

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
)

// setZone writes the table rules.ZoneTable, in one transaction, so that no packet meets it half made, and reads it
// back. A kernel without zones refuses it (noNFTables).
func setZone(proxy uint32) error {
	table, err := newZoneTable(proxy)
	if err != nil {
		return err
	}
	batch, err := table.batch()
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
	return table.check(conn)
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

// zoneTable is the table's parts, each as attributes. github.com/google/nftables cannot say "original" of a zone
// (NFTA_CT_DIRECTION), and a zone for both directions would lose the answers, so the messages are built here, of its
// expressions where it has them.
type zoneTable struct{ sets, chains, rules [][]byte }

func newZoneTable(proxy uint32) (t zoneTable, err error) {
	texts, expressions := rules.ZoneRules(proxy), zoneExpressions(proxy)
	for i, list := range expressions {
		nested, err := expressionList(list)
		if err != nil {
			return t, err
		}
		rule, err := attributes(
			text(unix.NFTA_RULE_TABLE, rules.ZoneTable), text(unix.NFTA_RULE_CHAIN, texts[i].Chain), nested,
			netlink.Attribute{Type: unix.NFTA_RULE_USERDATA, Data: userdata.AppendString(nil, userdata.TypeComment, texts[i].Why)})
		if err != nil {
			return t, err
		}
		t.rules = append(t.rules, rule)
	}
	for i, s := range []tuple{tuple4, tuple6} {
		set, err := s.set(uint32(i + 1))
		if err != nil {
			return t, err
		}
		t.sets = append(t.sets, set)
	}
	for _, c := range rules.ZoneChains {
		chain, err := zoneChain(c)
		if err != nil {
			return t, err
		}
		t.chains = append(t.chains, chain)
	}
	return t, nil
}

// batch is the transaction that defines the table anew.
func (t zoneTable) batch() ([]netlink.Message, error) {
	table, err := attributes(text(unix.NFTA_TABLE_NAME, rules.ZoneTable))
	if err != nil {
		return nil, err
	}
	const change = netlink.Request | netlink.Acknowledge | netlink.Create
	messages := []netlink.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, netlink.Request, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil),
		// or there may be none to delete
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, change, unix.NFPROTO_INET, 0, table),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, netlink.Request|netlink.Acknowledge, unix.NFPROTO_INET, 0, table),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, change, unix.NFPROTO_INET, 0, table),
	}
	for _, part := range []struct {
		kind  int
		flags netlink.HeaderFlags
		all   [][]byte
	}{{unix.NFT_MSG_NEWSET, change, t.sets}, {unix.NFT_MSG_NEWCHAIN, change, t.chains}, {unix.NFT_MSG_NEWRULE, change | netlink.Append, t.rules}} {
		for _, data := range part.all {
			messages = append(messages, message(unix.NFNL_SUBSYS_NFTABLES<<8|part.kind, part.flags, unix.NFPROTO_INET, 0, data))
		}
	}
	return append(messages, message(unix.NFNL_MSG_BATCH_END, netlink.Request, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)), nil
}

// zoneExpressions are those of rules.ZoneRules, in their order.
func zoneExpressions(proxy uint32) [][]any {
	is := func(key expr.MetaKey, data []byte) []any { return []any{meta(key), equal(data)} }
	not := func(key expr.MetaKey, data []byte) []any { return []any{meta(key), compare(expr.CmpOpNeq, data)} }
	zone := binary.NativeEndian.AppendUint16(nil, api.ProxyZone)
	set := []any{&expr.Immediate{Register: register, Data: zone}, ctZone(unix.NFTA_CT_SREG)}
	leave := &expr.Verdict{Kind: expr.VerdictReturn}
	const flags, syn, ack = 13, 2, 16 // RFC 9293
	return [][]any{
		append(not(expr.MetaKeyPRIORITY, binary.NativeEndian.AppendUint32(nil, api.ProxyPriority)), leave),
		append(append(is(expr.MetaKeySKUID, user(proxy)), set...), leave),
		append(not(expr.MetaKeySKUID, user(proxy)), leave),
		append(is(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP}),
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
			equal([]byte{syn}), leave),
		append(tuple4.load(), tuple4.lookup(), leave),
		append(tuple6.load(), tuple6.lookup(), leave),
		append(is(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP}), set...),
		append(not(expr.MetaKeyPRIORITY, binary.NativeEndian.AppendUint32(nil, api.ProxyPriority)), leave),
		{&expr.Immediate{Register: register, Data: make([]byte, 4)}, &expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: register}},
		{&expr.Ct{Key: expr.CtKeySTATE, Register: register}, compare(expr.CmpOpNeq, stateInvalid), leave},
		append(not(expr.MetaKeySKUID, user(math.MaxUint32)), leave),
		append(is(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP}), &expr.Verdict{Kind: expr.VerdictDrop}),
		{ctZone(unix.NFTA_CT_DREG), compare(expr.CmpOpNeq, zone), leave},
		append(is(expr.MetaKeySKUID, user(proxy)), leave),
		append(tuple4.load(), tuple4.update()),
		append(tuple6.load(), tuple6.update()),
		{&expr.Verdict{Kind: expr.VerdictDrop}},
	}
}

// expressionList is the attribute of a rule's expressions, each an expr.Any or attributes.
func expressionList(all []any) (netlink.Attribute, error) {
	var list []netlink.Attribute
	for _, e := range all {
		a, ready := e.(netlink.Attribute)
		if !ready {
			data, err := expr.Marshal(unix.NFPROTO_INET, e.(expr.Any))
			if err != nil {
				return a, err
			}
			a = netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: data}
		}
		list = append(list, a)
	}
	return nested(unix.NFTA_RULE_EXPRESSIONS, list...), nil
}

// expression is one that google/nftables cannot write, or writes otherwise than the kernel shows it.
func expression(name string, data ...netlink.Attribute) netlink.Attribute {
	return nested(unix.NFTA_LIST_ELEM, text(unix.NFTA_EXPR_NAME, name), nested(unix.NFTA_EXPR_DATA, data...))
}

// ctZone sets the zone of the direction original from the register (NFTA_CT_SREG), or loads it (NFTA_CT_DREG).
func ctZone(way uint16) netlink.Attribute {
	const original = 0 // IP_CT_DIR_ORIGINAL
	return expression("ct", number(unix.NFTA_CT_KEY, uint32(expr.CtKeyZONE)), number(way, register), netlink.Attribute{Type: unix.NFTA_CT_DIRECTION, Data: []byte{original}})
}

// tuple is the addresses and ports of a packet of one family, as the key of a set of those of apps.
type tuple struct {
	name         string
	family       byte
	source, dest uint32 // places of the addresses
	length       uint32 // of an address
	kind         uint32 // nft's number for the type of an address
	registers    [4]uint32
}

// A register is of 4 bytes, and each part of a key begins one: from the first 16 bytes, which are also register 1, on.
var (
	tuple4 = tuple{rules.ZoneApps4, unix.NFPROTO_IPV4, source4, dest4, length4, 7, [4]uint32{register, unix.NFT_REG32_01, unix.NFT_REG32_02, unix.NFT_REG32_03}}
	tuple6 = tuple{rules.ZoneApps6, unix.NFPROTO_IPV6, source6, dest6, length6, 8, [4]uint32{register, unix.NFT_REG_2, unix.NFT_REG32_05, unix.NFT_REG32_09}}
)

func (t tuple) load() []any {
	const sourcePort = 0
	network := func(to, offset uint32) any {
		return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: t.length}
	}
	transport := func(to, offset uint32) any {
		return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: lengthPort}
	}
	return []any{
		meta(expr.MetaKeyNFPROTO), equal([]byte{t.family}), meta(expr.MetaKeyL4PROTO), equal([]byte{unix.IPPROTO_TCP}),
		network(t.registers[0], t.source), transport(t.registers[1], sourcePort), network(t.registers[2], t.dest), transport(t.registers[3], destPort),
	}
}

func (t tuple) lookup() netlink.Attribute {
	return expression("lookup", text(unix.NFTA_LOOKUP_SET, t.name), number(unix.NFTA_LOOKUP_SREG, register), number(unix.NFTA_LOOKUP_FLAGS, 0))
}

func (t tuple) update() netlink.Attribute {
	return expression("dynset", text(unix.NFTA_DYNSET_SET_NAME, t.name), number(unix.NFTA_DYNSET_SREG_KEY, register),
		number(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_UPDATE), number(unix.NFTA_DYNSET_FLAGS, 0))
}

// set is the attributes of the set. Its key has a padded part for each register that load fills.
func (t tuple) set(id uint32) ([]byte, error) {
	const service, bits, padded = 13, 6, 4 // nft's number for the type of a port, and how it joins such numbers
	kind := ((t.kind<<bits|service)<<bits|t.kind)<<bits | service
	return attributes(
		text(unix.NFTA_SET_TABLE, rules.ZoneTable), text(unix.NFTA_SET_NAME, t.name), number(unix.NFTA_SET_FLAGS, unix.NFT_SET_EVAL|unix.NFT_SET_TIMEOUT),
		number(unix.NFTA_SET_KEY_TYPE, kind), number(unix.NFTA_SET_KEY_LEN, 2*(t.length+padded)), number(unix.NFTA_SET_ID, id),
		netlink.Attribute{Type: unix.NFTA_SET_TIMEOUT, Data: binary.BigEndian.AppendUint64(nil, uint64(rules.ZoneMemory/time.Millisecond))},
		nested(unix.NFTA_SET_DESC, number(unix.NFTA_SET_DESC_SIZE, rules.ZoneSize)))
}
