package apply

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
)

// removeOthers takes out our rules of every back end but the one that holds them now, or a connection would be
// redirected by what an earlier configuration said.
func (s system) removeOthers(r result) error {
	if _, err := removeFromNFTables(!r.nftables, r.variant != variantNFT); err != nil {
		return err
	}
	if r.variant == variantLegacy || s.program(variantLegacy, rules.IPv4, "restore") == "" || !capable(unix.CAP_NET_RAW) {
		// without the programs, or without the right to run them, no earlier run of this container made legacy rules
		return nil
	}
	_, err := s.removeLegacy()
	return err
}

// removeLegacy takes our chains out of the tables of the legacy iptables, one commit for each table, and says which it
// took.
func (s system) removeLegacy() (removed []string, err error) {
	for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
		held, err := s.held(variantLegacy, f)
		if err != nil {
			return removed, err
		}
		for _, table := range rules.Tables {
			if !held[table].Ours() {
				continue
			}
			if _, err := s.run(variantLegacy, f, "restore", held[table].Clean(table), "--noflush"); err != nil {
				return removed, explainIPTables(variantLegacy, err)
			}
			removed = append(removed, taken(table, f, variantLegacy))
		}
	}
	return removed, nil
}

// removeFromNFTables takes out our table, and our chains in the tables of iptables-nft, in one transaction and over
// netlink: the image may be the one without programs. A kernel without nftables holds neither. It says what it took
// out.
func removeFromNFTables(table, chains bool) (removed []string, err error) {
	conn, err := nftables.New(nftables.WithSockOptions(configure))
	if err != nil {
		return nil, unlessMissing("open netlink", err)
	}
	if table {
		if removed, err = removeTables(conn); err != nil {
			return nil, err
		}
	}
	if chains {
		for family, f := range map[nftables.TableFamily]rules.Family{nftables.TableFamilyIPv4: rules.IPv4, nftables.TableFamilyIPv6: rules.IPv6} {
			for _, table := range rules.Tables {
				there, err := removeChains(conn, family, table)
				if err != nil {
					return nil, err
				}
				if there {
					removed = append(removed, taken(table, f, variantNFT))
				}
			}
		}
	}
	if len(removed) == 0 {
		return nil, nil
	}
	if err := conn.Flush(); err != nil {
		return nil, explainNFTables("remove rules of nftables", err)
	}
	slices.Sort(removed)
	return removed, nil
}

func taken(table string, f rules.Family, v variant) string {
	return fmt.Sprintf("table %s of %s: our chains and the jumps to them", table, f.Program("-"+string(v)))
}

// removeTables queues the removal of our own tables and names those that are there.
func removeTables(conn *nftables.Conn) (removed []string, err error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, unlessMissing("list the nftables of the pod", err)
	}
	for _, t := range tables {
		if t.Name == rules.Table || t.Name == rules.ZoneTable || t.Name == rules.TransparentTable {
			conn.DelTable(t)
			removed = append(removed, "table inet "+t.Name)
		}
	}
	return removed, nil
}

// removeChains queues the removal of our chains in a table of iptables of a family, and of each rule elsewhere in it
// that jumps there. It tells whether there are any.
func removeChains(conn *nftables.Conn, family nftables.TableFamily, table string) (there bool, err error) {
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return false, unlessMissing("list the nftables of the pod", err)
	}
	var ours, others []*nftables.Chain
	for _, c := range chains {
		switch {
		case c.Table.Name != table:
		case strings.HasPrefix(c.Name, rules.ChainPrefix):
			ours = append(ours, c)
		default:
			others = append(others, c)
		}
	}
	if len(ours) == 0 {
		return false, nil
	}
	for _, c := range others {
		lines, err := conn.GetRules(c.Table, c)
		if err != nil {
			return false, explainNFTables("read the chain "+c.Name, err)
		}
		for _, line := range lines {
			if jumpsToUs(line) {
				if err := conn.DelRule(line); err != nil {
					return false, err
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
	return true, nil
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
