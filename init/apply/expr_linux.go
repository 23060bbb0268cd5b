package apply

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

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

// encode writes a rule in the kernel's expressions, the way nft does: no sets and no extensions, so that nothing but
// nf_tables, nft_chain_nat, nft_redir, nft_ct and nft_reject_inet is needed, and so that what is read back is what was
// written.
func encode(r rules.Rule) []expr.Any {
	var e []expr.Any
	if r.UID != 0 {
		e = append(e, meta(expr.MetaKeySKUID), equal(binary.NativeEndian.AppendUint32(nil, r.UID)))
	}
	if r.NotUID != 0 {
		e = append(e, meta(expr.MetaKeySKUID), &expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binary.NativeEndian.AppendUint32(nil, r.NotUID)})
	}
	e = append(e, encodeTracking(r.Tracked)...)
	if r.In != "" {
		e = append(e, meta(expr.MetaKeyIIFNAME), equal(interfaceName(r.In)))
	}
	if r.Loopback {
		e = append(e, meta(expr.MetaKeyOIFNAME), equal(interfaceName("lo")))
	}
	if r.Out != "" {
		e = append(e, meta(expr.MetaKeyOIFNAME), equal(interfaceName(r.Out)))
	}
	if r.Source.IsValid() {
		e = append(e, encodeAddress(netip.PrefixFrom(r.Source, r.Source.BitLen()), source4, source6, expr.CmpOpEq)...)
	}
	if r.Dest.IsValid() {
		op := expr.CmpOpEq
		if r.Outside {
			op = expr.CmpOpNeq
		}
		e = append(e, encodeAddress(r.Dest, dest4, dest6, op)...)
	}
	if r.Ports.First != 0 || r.RedirectTo != 0 || r.Refuse != 0 {
		e = append(e, meta(expr.MetaKeyL4PROTO), equal([]byte{unix.IPPROTO_TCP}))
	}
	if r.Ports.First != 0 {
		e = append(e, encodePorts(r.Ports)...)
	}
	return append(e, encodeVerdict(r)...)
}

func encodeVerdict(r rules.Rule) []expr.Any {
	switch {
	case r.RedirectTo != 0:
		return []expr.Any{
			&expr.Immediate{Register: register, Data: port(r.RedirectTo)},
			&expr.Redir{RegisterProtoMin: register, RegisterProtoMax: register, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
		}
	case r.Refuse == rules.Reset:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	case r.Refuse == rules.Drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	}
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
}

// What conntrack says, as the kernel writes it into a register (linux/netfilter/nf_conntrack_common.h).
var (
	directionOriginal = []byte{0}
	stateInvalid      = binary.NativeEndian.AppendUint32(nil, expr.CtStateBitINVALID)
	stateNone         = make([]byte, 4)
)

func encodeTracking(asked rules.Tracking) []expr.Any {
	switch asked {
	case rules.Original:
		return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register}, equal(directionOriginal)}
	case rules.Invalid:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: register},
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: stateInvalid, Xor: stateNone},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: stateNone},
		}
	}
	return nil
}

// encodeAddress compares an address of the packet. A table of family inet sees both families, and the offset means
// something in one of them only, so the family is always asked first.
func encodeAddress(p netip.Prefix, offset4, offset6 uint32, op expr.CmpOp) []expr.Any {
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
	return append(e, &expr.Cmp{Op: op, Register: register, Data: p.Addr().AsSlice()})
}

func encodePorts(r netset.PortRange) []expr.Any {
	load := &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: destPort, Len: lengthPort}
	if r.First == r.Last {
		return []expr.Any{load, equal(port(r.First))}
	}
	return []expr.Any{
		load,
		&expr.Cmp{Op: expr.CmpOpGte, Register: register, Data: port(r.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: port(r.Last)},
	}
}

// decode reads what encode writes, but for the reason, which is not an expression. An expression that encode does not
// write is an error.
func decode(exprs []expr.Any) (rules.Rule, error) {
	var r rules.Rule
	var loaded expr.Any // what the register was loaded with
	var data, mask []byte
	for _, e := range exprs {
		var err error
		switch e := e.(type) {
		case *expr.Meta, *expr.Ct:
			loaded, mask = e, nil
		case *expr.Payload:
			loaded, mask = e, nil
		case *expr.Bitwise:
			mask = e.Mask
		case *expr.Cmp:
			err = decodeCondition(&r, loaded, mask, e)
		case *expr.Immediate:
			data = e.Data
		case *expr.Redir:
			r.RedirectTo, err = decodePort(data)
		case *expr.Reject:
			r.Refuse = rules.Reset
			if e.Type != unix.NFT_REJECT_TCP_RST {
				err = fmt.Errorf("reject of type %d", e.Type)
			}
		case *expr.Verdict:
			switch e.Kind {
			case expr.VerdictReturn:
			case expr.VerdictDrop:
				r.Refuse = rules.Drop
			default:
				err = fmt.Errorf("verdict %d", e.Kind)
			}
		default:
			err = fmt.Errorf("expression %T", e)
		}
		if err != nil {
			return rules.Rule{}, fmt.Errorf("not ours: %w", err)
		}
	}
	return r, nil
}

func decodeCondition(r *rules.Rule, loaded expr.Any, mask []byte, c *expr.Cmp) (err error) {
	switch l := loaded.(type) {
	case *expr.Meta:
		switch {
		case l.Key == expr.MetaKeySKUID && len(c.Data) == 4 && c.Op == expr.CmpOpNeq:
			r.NotUID = binary.NativeEndian.Uint32(c.Data)
		case l.Key == expr.MetaKeySKUID && len(c.Data) == 4:
			r.UID = binary.NativeEndian.Uint32(c.Data)
		case l.Key == expr.MetaKeyIIFNAME || l.Key == expr.MetaKeyOIFNAME:
			return decodeInterface(r, l.Key, c.Data)
		case l.Key == expr.MetaKeyNFPROTO || l.Key == expr.MetaKeyL4PROTO:
			// the address or the port that follows says it
		default:
			err = fmt.Errorf("meta key %d compared with %x", l.Key, c.Data)
		}
		return err
	case *expr.Ct:
		return decodeTracking(r, l, mask, c)
	case *expr.Payload:
		if l.Base == expr.PayloadBaseNetworkHeader {
			return decodeAddress(r, l, mask, c)
		}
		return decodePorts(r, c)
	}
	return fmt.Errorf("comparison of %T", loaded)
}

func decodeTracking(r *rules.Rule, l *expr.Ct, mask []byte, c *expr.Cmp) error {
	switch {
	case l.Key == expr.CtKeyDIRECTION && c.Op == expr.CmpOpEq && slices.Equal(c.Data, directionOriginal):
		r.Tracked = rules.Original
	case l.Key == expr.CtKeySTATE && c.Op == expr.CmpOpNeq && slices.Equal(mask, stateInvalid) && slices.Equal(c.Data, stateNone):
		r.Tracked = rules.Invalid
	default:
		return fmt.Errorf("conntrack key %d compared with %x", l.Key, c.Data)
	}
	return nil
}

func decodeInterface(r *rules.Rule, key expr.MetaKey, data []byte) error {
	name := string(bytes.TrimRight(data, "\x00"))
	switch {
	case key == expr.MetaKeyOIFNAME && slices.Equal(data, interfaceName("lo")):
		r.Loopback = true
	case !slices.Equal(data, interfaceName(name)) || (netset.Interfaces{name}).Validate() != nil:
		// shorter, it would be the beginning of a name
		return fmt.Errorf("interface %q", data)
	case key == expr.MetaKeyIIFNAME:
		r.In = name
	default:
		r.Out = name
	}
	return nil
}

func decodeAddress(r *rules.Rule, l *expr.Payload, mask []byte, c *expr.Cmp) error {
	addr, ok := netip.AddrFromSlice(c.Data)
	if !ok || int(l.Len) != len(c.Data) {
		return fmt.Errorf("address of %d bytes", len(c.Data))
	}
	bits := addr.BitLen()
	if mask != nil {
		bits, _ = net.IPMask(mask).Size()
	}
	switch {
	case l.Offset == source4 && addr.Is4(), l.Offset == source6 && addr.Is6():
		r.Source = addr
	case l.Offset == dest4 && addr.Is4(), l.Offset == dest6 && addr.Is6():
		r.Dest, r.Outside = netip.PrefixFrom(addr, bits), c.Op == expr.CmpOpNeq
	default:
		return fmt.Errorf("offset %d", l.Offset)
	}
	return nil
}

func decodePorts(r *rules.Rule, c *expr.Cmp) error {
	p, err := decodePort(c.Data)
	if c.Op != expr.CmpOpLte {
		r.Ports.First = p
	}
	if c.Op != expr.CmpOpGte {
		r.Ports.Last = p
	}
	return err
}

func decodePort(data []byte) (uint16, error) {
	if len(data) != lengthPort {
		return 0, fmt.Errorf("port of %d bytes", len(data))
	}
	return binary.BigEndian.Uint16(data), nil
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: register} }

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data} }

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

// interfaceName is compared in full, padding included: a shorter comparison would match every name that starts so.
func interfaceName(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}
