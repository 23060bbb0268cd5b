package apply

import (
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
)

// removeOthers takes out our rules of every back end but the one that holds them now, or a connection would be redirected by what an
// earlier configuration said.
func (s system) removeOthers(r result) error {
	if err := removeFromNFTables(!r.nftables, r.variant != variantNFT); err != nil {
		return err
	}
	if r.variant == variantLegacy || s.program(variantLegacy, rules.IPv4, "restore") == "" || !capable(unix.CAP_NET_RAW) {
		return nil // without the programs, or without the right to run them, no earlier run of this container made legacy rules
	}
	for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
		held, err := s.held(variantLegacy, f)
		if err != nil {
			return err
		}
		if held.Ours() {
			if _, err := s.run(variantLegacy, f, "restore", held.Clean(), "--noflush"); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeFromNFTables takes out our table, and our chains in the tables of iptables-nft, in one transaction and over netlink: the image may be the one without
// programs. A kernel without nftables holds neither.
func removeFromNFTables(table, chains bool) error {
	conn, err := nftables.New(nftables.WithSockOptions(configure))
	if err != nil {
		return unlessMissing("open netlink", err)
	}
	if table {
		if err := removeTable(conn); err != nil {
			return err
		}
	}
	if chains {
		for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
			if err := removeChains(conn, family); err != nil {
				return err
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return explainNFTables("remove rules of nftables", err)
	}
	return nil
}

func removeTable(conn *nftables.Conn) error {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return unlessMissing("list the nftables of the pod", err)
	}
	for _, t := range tables {
		if t.Name == rules.Table {
			conn.DelTable(t)
		}
	}
	return nil
}

// removeChains queues the removal of our chains in the nat table of a family, and of each rule elsewhere in it that jumps there.
func removeChains(conn *nftables.Conn, family nftables.TableFamily) error {
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return unlessMissing("list the nftables of the pod", err)
	}
	var ours, others []*nftables.Chain
	for _, c := range chains {
		switch {
		case c.Table.Name != "nat":
		case strings.HasPrefix(c.Name, rules.ChainPrefix):
			ours = append(ours, c)
		default:
			others = append(others, c)
		}
	}
	if len(ours) == 0 {
		return nil
	}
	for _, c := range others {
		lines, err := conn.GetRules(c.Table, c)
		if err != nil {
			return explainNFTables("read the chain "+c.Name, err)
		}
		for _, line := range lines {
			if jumpsToUs(line) {
				if err := conn.DelRule(line); err != nil {
					return err
				}
			}
		}
	}
	for _, c := range ours {
		conn.FlushChain(c)
	}
	for _, c := range ours {
		conn.DelChain(c)
	}
	return nil
}

func jumpsToUs(r *nftables.Rule) bool {
	for _, e := range r.Exprs {
		if v, ok := e.(*expr.Verdict); ok && strings.HasPrefix(v.Chain, rules.ChainPrefix) {
			return true
		}
	}
	return false
}

// unlessMissing is nil where the kernel has no nftables, and explains every other error.
func unlessMissing(operation string, err error) error {
	if noNFTables(err) {
		return nil
	}
	return explainNFTables(operation, err)
}
