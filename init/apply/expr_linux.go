package apply

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"reflect"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Only one register is used; conditions load it and compare it in turn.
const register = 1

// Offsets and lengths of what the rules look at (RFC 791, RFC 8200, RFC 9293).
const (
	source4, dest4, length4 = 12, 16, 4
	source6, dest6, length6 = 8, 24, 16
	destPort, lengthPort    = 2, 2
)

// What conntrack says, as the kernel writes it into a register (linux/netfilter/nf_conntrack_common.h).
var (
	directionOriginal = []byte{0}
	stateInvalid      = binary.NativeEndian.AppendUint32(nil, expr.CtStateBitINVALID)
	stateNone         = make([]byte, 4)
)

// codec is a kind of condition or verdict in the kernel's expressions, the way nft writes it: no sets and no
// extensions, so that nothing but nf_tables, nft_chain_nat, nft_redir, nft_ct and nft_reject_inet is needed, and so
// that what is read back is what was written.
type codec struct {
	encode func(rules.Rule) []expr.Any
	// set reads the value from expressions that begin with this kind. It need not look at the rest of them: decode
	// compares all with what encode makes of the value.
	set func(*rules.Rule, []expr.Any)
}

var codecs = [rules.Kinds]codec{
	rules.KindUser: compared(expr.MetaKeySKUID, expr.CmpOpEq,
		func(r rules.Rule) []byte { return user(r.UID) }, func(r *rules.Rule, data []byte) { r.UID = userOf(data) }),
	rules.KindNotUser: compared(expr.MetaKeySKUID, expr.CmpOpNeq,
		func(r rules.Rule) []byte { return user(r.NotUID) }, func(r *rules.Rule, data []byte) { r.NotUID = userOf(data) }),
	rules.KindOriginal: fixed(func(r *rules.Rule) { r.Tracked = rules.Original },
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register}, equal(directionOriginal)),
	rules.KindInvalid: fixed(func(r *rules.Rule) { r.Tracked = rules.Invalid },
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: stateInvalid, Xor: stateNone},
		compare(expr.CmpOpNeq, stateNone)),
	rules.KindIn: compared(expr.MetaKeyIIFNAME, expr.CmpOpEq,
		func(r rules.Rule) []byte { return interfaceName(r.In) }, func(r *rules.Rule, data []byte) { r.In = interfaceOf(data) }),
	rules.KindOut: compared(expr.MetaKeyOIFNAME, expr.CmpOpEq,
		func(r rules.Rule) []byte { return interfaceName(r.Out) }, func(r *rules.Rule, data []byte) {
			if r.Out = rules.Loopback; !bytes.Equal(data, interfaceName(rules.Loopback)) {
				r.Out = interfaceOf(data)
			}
		}),
	rules.KindSource: {
		func(r rules.Rule) []expr.Any { return network(r.Source, source4, source6, expr.CmpOpEq) },
		func(r *rules.Rule, e []expr.Any) { r.Source = networkOf(e) },
	},
	rules.KindNotDest: {
		func(r rules.Rule) []expr.Any { return network(r.NotDest, dest4, dest6, expr.CmpOpNeq) },
		func(r *rules.Rule, e []expr.Any) { r.NotDest = networkOf(e) },
	},
	rules.KindDest: {
		func(r rules.Rule) []expr.Any { return network(r.Dest, dest4, dest6, expr.CmpOpEq) },
		func(r *rules.Rule, e []expr.Any) { r.Dest = networkOf(e) },
	},
	rules.KindPorts: {ports, func(r *rules.Rule, e []expr.Any) {
		r.Ports = netset.PortRange{First: portOf(data(e, 3)), Last: portOf(data(e, 3))}
		if len(e) > 4 && isRange(e[3]) {
			r.Ports.Last = portOf(data(e, 4))
		}
	}},
	rules.KindTCP: fixed(func(*rules.Rule) {}, meta(expr.MetaKeyL4PROTO), equal([]byte{unix.IPPROTO_TCP})),
	rules.KindRedirect: {
		func(r rules.Rule) []expr.Any {
			return []expr.Any{
				&expr.Immediate{Register: register, Data: port(r.RedirectTo)},
				&expr.Redir{RegisterProtoMin: register, RegisterProtoMax: register, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
			}
		},
		func(r *rules.Rule, e []expr.Any) { r.RedirectTo = portOf(data(e, 0)) },
	},
	rules.KindReset: fixed(func(r *rules.Rule) { r.Refuse = rules.Reset }, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}),
	rules.KindDrop:  fixed(func(r *rules.Rule) { r.Refuse = rules.Drop }, &expr.Verdict{Kind: expr.VerdictDrop}),
	rules.KindGoto: {
		func(r rules.Rule) []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: r.Goto}} },
		func(r *rules.Rule, e []expr.Any) {
			if len(e) > 0 {
				if v, ok := e[0].(*expr.Verdict); ok {
					r.Goto = v.Chain
				}
			}
		},
	},
	rules.KindReturn: fixed(func(*rules.Rule) {}, &expr.Verdict{Kind: expr.VerdictReturn}),
}

// fixed is a kind without a value.
func fixed(set func(*rules.Rule), exprs ...expr.Any) codec {
	return codec{func(rules.Rule) []expr.Any { return exprs }, func(r *rules.Rule, _ []expr.Any) { set(r) }}
}

// compared is a kind that compares what the packet's metadata say.
func compared(key expr.MetaKey, op expr.CmpOp, get func(rules.Rule) []byte, set func(*rules.Rule, []byte)) codec {
	return codec{
		func(r rules.Rule) []expr.Any { return []expr.Any{meta(key), compare(op, get(r))} },
		func(r *rules.Rule, e []expr.Any) { set(r, data(e, 1)) },
	}
}

// encode writes a rule, but for its reason, in the kernel's expressions.
func encode(r rules.Rule) (exprs []expr.Any) {
	for kind, c := range codecs {
		if rules.Kind(kind).In(r) {
			exprs = append(exprs, c.encode(r)...)
		}
	}
	return exprs
}

// decode reads what encode writes. An expression that encode does not write is an error.
func decode(exprs []expr.Any) (rules.Rule, error) {
	var r rules.Rule
	rest := exprs
	for _, c := range codecs {
		with := r
		c.set(&with, rest)
		if of := c.encode(with); len(of) <= len(rest) && reflect.DeepEqual(of, rest[:len(of)]) {
			r, rest = with, rest[len(of):]
		}
	}
	if !reflect.DeepEqual(encode(r), exprs) {
		return rules.Rule{}, fmt.Errorf("not ours: of %d expressions, %d are of another form", len(exprs), len(rest))
	}
	return r, nil
}

// network compares an address of the packet. A table of family inet sees both families, and the offset means something
// in one of them only, so the family is always asked first.
func network(p netip.Prefix, offset4, offset6 uint32, op expr.CmpOp) []expr.Any {
	family, offset, length := byte(unix.NFPROTO_IPV4), offset4, uint32(length4)
	if p.Addr().Is6() {
		family, offset, length = unix.NFPROTO_IPV6, offset6, length6
	}
	e := []expr.Any{
		meta(expr.MetaKeyNFPROTO), equal([]byte{family}),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
	}
	if !p.IsSingleIP() {
		e = append(e, &expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: length,
			Mask: net.CIDRMask(p.Bits(), int(length)*8), Xor: make([]byte, length),
		})
	}
	return append(e, compare(op, p.Addr().AsSlice()))
}

func networkOf(e []expr.Any) netip.Prefix {
	if len(e) < 4 {
		return netip.Prefix{}
	}
	if b, ok := e[3].(*expr.Bitwise); ok {
		addr, _ := netip.AddrFromSlice(data(e, 4))
		bits, _ := net.IPMask(b.Mask).Size()
		return netip.PrefixFrom(addr, bits)
	}
	addr, _ := netip.AddrFromSlice(data(e, 3))
	return netip.PrefixFrom(addr, addr.BitLen())
}

func ports(r rules.Rule) []expr.Any {
	e := []expr.Any{
		meta(expr.MetaKeyL4PROTO), equal([]byte{unix.IPPROTO_TCP}),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: destPort, Len: lengthPort},
	}
	if r.Ports.First == r.Ports.Last {
		return append(e, equal(port(r.Ports.First)))
	}
	return append(e, compare(expr.CmpOpGte, port(r.Ports.First)), compare(expr.CmpOpLte, port(r.Ports.Last)))
}

// isRange tells whether the expression compares with the first of several ports.
func isRange(e expr.Any) bool {
	c, ok := e.(*expr.Cmp)
	return ok && c.Op == expr.CmpOpGte
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: register} }

func compare(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: register, Data: data}
}

func equal(data []byte) expr.Any { return compare(expr.CmpOpEq, data) }

// data is what the expression at an index compares or loads; nil where it does not.
func data(e []expr.Any, i int) []byte {
	if i >= len(e) {
		return nil
	}
	switch e := e[i].(type) {
	case *expr.Cmp:
		return e.Data
	case *expr.Immediate:
		return e.Data
	}
	return nil
}

func user(uid uint32) []byte { return binary.NativeEndian.AppendUint32(nil, uid) }

func userOf(data []byte) uint32 {
	if len(data) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(data)
}

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

func portOf(data []byte) uint16 {
	if len(data) != lengthPort {
		return 0
	}
	return binary.BigEndian.Uint16(data)
}

// interfaceName is compared in full, padding included: a shorter comparison would match every name that starts so.
func interfaceName(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

// interfaceOf is empty for what no rule may name.
func interfaceOf(data []byte) string {
	name := string(bytes.TrimRight(data, "\x00"))
	if (netset.Interfaces{name}).Validate() != nil {
		return ""
	}
	return name
}
