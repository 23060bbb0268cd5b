package apply

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Places of our rules among those of the routes. The kernel's own for the table local is 0.
const (
	markPlace  = 10
	localPlace = 11
)

var directionReply = []byte{1} // linux/netfilter/nf_conntrack_tuple_common.h

var everywhere4, everywhere6 = netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")

// ownAddresses are those of the pod's interfaces, but for loopback and link-local ones.
func ownAddresses() (own []netip.Addr, err error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, explain("list the addresses of the pod", err)
	}
	for _, a := range addrs {
		if addr := networkOfIP(a.IPNet).Addr(); addr.IsValid() {
			if addr, _ = netip.AddrFromSlice(a.IP); !addr.IsLoopback() && !addr.IsLinkLocalUnicast() {
				own = append(own, addr.Unmap())
			}
		}
	}
	return own, nil
}

// setTransparent lets the proxy dial the app from addresses that are not the pod's, and brings the answers back to it.
// Three things are needed, and no capability of the proxy's:
//
//   - The app's answers get a mark (rules.TransparentTable), and what has it is routed as local. It cannot leave.
//   - IPv4 sends from an address only if the table local has it, whatever the rules of the routes say. So the table
//     gets a route to everything, and the rule that looks there is replaced by one that passes this route over.
//   - The zone of conntrack that the proxy's connections have: the client's and the proxy's could have the same
//     addresses and ports.
//
// A second run takes nothing away in between.
func setTransparent(ports netset.Ports, ipv6 bool) error {
	if len(ports) == 0 {
		_, err := removeTransparentRoutes()
		return err
	}
	lo, err := loopbackUp()
	if err != nil {
		return err
	}
	if err := writeTransparentTable(ports); err != nil {
		return err
	}
	families := []int{netlink.FAMILY_V4}
	if ipv6 {
		families = append(families, netlink.FAMILY_V6)
	}
	for _, family := range families {
		to := map[int]netip.Prefix{netlink.FAMILY_V4: everywhere4, netlink.FAMILY_V6: everywhere6}[family]
		route := clientRoute(lo, to)
		route.Table = rules.TransparentMark
		if err := errors.Join(netlink.RouteReplace(&route), addRule(markRule(family))); err != nil {
			return explain("bring the answers of transparent ports back to the proxy", err)
		}
	}
	if err := addRule(localRule()); err != nil {
		return explain("look into the table local without its route to everything", err)
	}
	if err := netlink.RuleDel(kernelRule()); err != nil && !errors.Is(err, unix.ENOENT) {
		return explain("replace the rule for the table local", err)
	}
	route := clientRoute(lo, everywhere4)
	if err := netlink.RouteReplace(&route); err != nil {
		return explain("let the proxy have its clients' addresses", err)
	}
	return checkTransparent(families)
}

// checkTransparent reads the rules of the routes back: without the one for the table local, or with the kernel's own
// still there, the pod would reach nobody but itself.
func checkTransparent(families []int) error {
	for _, family := range families {
		held, err := netlink.RuleList(family)
		if err != nil {
			return explain("read the rules of the routes back", err)
		}
		places := map[int]int{}
		for _, r := range held {
			places[r.Priority] = r.Table
		}
		_, kernels := places[0]
		if places[markPlace] != rules.TransparentMark || family == netlink.FAMILY_V4 && (kernels || places[localPlace] != unix.RT_TABLE_LOCAL) {
			return fmt.Errorf("the rules of the routes differ from what was written, they are %v: is something else writing to them?", held)
		}
	}
	return nil
}

func markRule(family int) *netlink.Rule {
	r := netlink.NewRule()
	mask := uint32(0xffffffff)
	r.Family, r.Priority, r.Mark, r.Mask, r.Table = family, markPlace, rules.TransparentMark, &mask, rules.TransparentMark
	return r
}

func localRule() *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.SuppressPrefixlen = netlink.FAMILY_V4, localPlace, unix.RT_TABLE_LOCAL, 0
	return r
}

func kernelRule() *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table = netlink.FAMILY_V4, 0, unix.RT_TABLE_LOCAL
	return r
}

func addRule(r *netlink.Rule) error {
	if err := netlink.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// removeTransparentRoutes puts the kernel's rule for the table local back, and takes ours out; the routes go with the
// other client routes. The route to everything goes first, or for a moment the pod would reach nobody but itself.
func removeTransparentRoutes() (removed []string, err error) {
	held, err := netlink.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return nil, explain("list the rules of the routes", err)
	}
	ours := false
	for _, r := range held {
		ours = ours || r.Priority == markPlace && r.Table == rules.TransparentMark
	}
	if !ours {
		return nil, nil
	}
	if _, err := removeClientRoutes(func(p netip.Prefix) bool { return p.IsValid() && p.Bits() == 0 }); err != nil {
		return nil, err
	}
	if err := addRule(kernelRule()); err != nil {
		return nil, explain("put the rule for the table local back", err)
	}
	for _, r := range []*netlink.Rule{localRule(), markRule(netlink.FAMILY_V4), markRule(netlink.FAMILY_V6)} {
		if err := netlink.RuleDel(r); err != nil && !isAny(err, unix.ENOENT, unix.EAFNOSUPPORT) {
			return nil, explain("remove a rule of the routes", err)
		}
	}
	return []string{"rules of the routes for transparent ports"}, nil
}

// writeTransparentTable writes rules.TransparentTable anew and reads it back.
func writeTransparentTable(ports netset.Ports) error {
	conn, err := nftables.New(nftables.WithSockOptions(configure))
	if err != nil {
		return explainNFTables("open netlink", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: rules.TransparentTable}
	policy := nftables.ChainPolicyAccept
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	chain := conn.AddChain(&nftables.Chain{Table: table, Name: rules.TransparentTable, Type: nftables.ChainTypeRoute, Hooknum: nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityRef(rules.TransparentPriority), Policy: &policy})
	for _, r := range ports {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: answersOf(r), UserData: userdata.AppendString(nil, userdata.TypeComment, rules.TransparentWhy)})
	}
	kept := conn.AddChain(&nftables.Chain{Table: table, Name: rules.TransparentKept, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityRef(0), Policy: &policy})
	conn.AddRule(&nftables.Rule{Table: table, Chain: kept, Exprs: keptAnswers(), UserData: userdata.AppendString(nil, userdata.TypeComment, rules.TransparentKeptWhy)})
	if err := conn.Flush(); err != nil {
		return explainNFTables("write table inet "+rules.TransparentTable, err)
	}
	var meant [][]expr.Any
	for _, r := range ports {
		meant = append(meant, answersOf(r))
	}
	return errors.Join(checkRules(conn, chain, meant), checkRules(conn, kept, [][]expr.Any{keptAnswers()}))
}

// checkRules reads a chain of the table back.
func checkRules(conn *nftables.Conn, chain *nftables.Chain, meant [][]expr.Any) error {
	held, err := conn.GetRules(chain.Table, chain)
	if err != nil {
		return explainNFTables("read table inet "+chain.Table.Name+" back", err)
	}
	if len(held) != len(meant) {
		return fmt.Errorf("table inet %s, chain %s: %d rules instead of %d: is something else writing to it?", chain.Table.Name, chain.Name, len(held), len(meant))
	}
	for i := range meant {
		if !reflect.DeepEqual(held[i].Exprs, meant[i]) {
			return fmt.Errorf("table inet %s differs from what was written: chain %s: rule %d is %s", chain.Table.Name, chain.Name, i+1, describe(held[i].Exprs))
		}
	}
	return nil
}

// keptAnswers drops what has the mark and would leave the pod.
func keptAnswers() []expr.Any {
	return []expr.Any{meta(expr.MetaKeyOIFNAME), compare(expr.CmpOpNeq, interfaceName(rules.Loopback)), meta(expr.MetaKeyMARK),
		equal(binary.NativeEndian.AppendUint32(nil, rules.TransparentMark)), &expr.Verdict{Kind: expr.VerdictDrop}}
}

// answersOf marks the answers from the ports.
func answersOf(r netset.PortRange) []expr.Any {
	e := []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register}, equal(directionReply),
		meta(expr.MetaKeyL4PROTO), equal([]byte{unix.IPPROTO_TCP}),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: lengthPort},
	}
	if r.First == r.Last {
		e = append(e, equal(port(r.First)))
	} else {
		e = append(e, compare(expr.CmpOpGte, port(r.First)), compare(expr.CmpOpLte, port(r.Last)))
	}
	return append(e, &expr.Immediate{Register: register, Data: binary.NativeEndian.AppendUint32(nil, rules.TransparentMark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register, SourceRegister: true})
}

// errTransparent is for kernels and back ends without zones of conntrack.
var errTransparent = fmt.Errorf("transparent ports need nftables with zones of conntrack, which keep the client's connection and the proxy's apart: "+
	"leave out the annotation %s, or take nodes with a later kernel and spec.init.backend: Auto", api.TransparentPortsAnnotation)
