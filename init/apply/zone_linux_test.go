package apply

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/test/program"
)

// TestZoneIsReadBack: what the kernel holds is compared with what was meant, in each of its parts.
func TestZoneIsReadBack(t *testing.T) {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: rules.ZoneTable}
	chain, learn := &nftables.Chain{Table: table, Name: rules.ZoneTable}, &nftables.Chain{Table: table, Name: rules.ZoneLearn}
	drop := nftables.ChainPolicyDrop
	for name, test := range map[string]struct {
		tamper func(*nftables.Conn)
		mean   func(rule []byte) []byte // of each
		want   string                   // "" is no error
	}{
		"as it was written": {},
		"one more rule": {want: "holds 18 rules instead of 17", tamper: func(c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}})
		}},
		"no rule":        {want: "holds 10 rules instead of 17", tamper: func(c *nftables.Conn) { c.FlushChain(chain) }},
		"one more chain": {want: "holds 4 chains instead of 3", tamper: func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Table: table, Name: "other"}) }},
		"one more set": {want: "holds 3 sets instead of 2", tamper: func(c *nftables.Conn) {
			if err := c.AddSet(&nftables.Set{Table: table, Name: "other", KeyType: nftables.TypeInetService}, nil); err != nil {
				t.Error(err)
			}
		}},
		"another policy": {want: "its chain 1 is", tamper: func(c *nftables.Conn) {
			c.AddChain(&nftables.Chain{Table: table, Name: rules.ZoneTable, Policy: &drop})
		}},
		"no table": {want: "no such file or directory", tamper: func(c *nftables.Conn) { c.DelTable(table) }},
		"another rule": {want: "its rule 13 is learn [meta ", tamper: func(c *nftables.Conn) {
			c.FlushChain(learn)
			for range 5 {
				c.AddRule(&nftables.Rule{Table: table, Chain: learn, Exprs: []expr.Any{meta(expr.MetaKeySKUID), equal([]byte{0, 0, 0, 0}), &expr.Verdict{Kind: expr.VerdictReturn}}})
			}
		}},
		// What google/nftables cannot say is compared as well: the direction of the zone, and what is done to a set.
		"another direction": {want: "its rule 2 is meshless_apart [meta ", mean: func(rule []byte) []byte {
			direction := func(d byte) []byte {
				return nested(0, netlink.Attribute{Type: unix.NFTA_CT_DIRECTION, Data: []byte{d}}).Data
			}
			return bytes.ReplaceAll(rule, direction(0), direction(1))
		}},
		"another set": {want: "its rule 5 is meshless_apart [meta ", mean: func(rule []byte) []byte {
			return bytes.ReplaceAll(rule, []byte(rules.ZoneApps4), []byte(rules.ZoneApps6))
		}},
		"another operation": {want: "its rule 15 is learn [meta ", mean: func(rule []byte) []byte {
			operation := func(n uint32) []byte { return nested(0, number(unix.NFTA_DYNSET_OP, n)).Data }
			if !bytes.Contains(rule, []byte("dynset")) {
				return rule
			}
			return bytes.ReplaceAll(rule, operation(unix.NFT_DYNSET_OP_UPDATE), operation(unix.NFT_DYNSET_OP_ADD))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			err := inside(t, newNetns(t), func() error {
				if err := setZone(proxyUID); err != nil {
					return err
				}
				if test.tamper != nil {
					conn := &nftables.Conn{}
					test.tamper(conn)
					if err := conn.Flush(); err != nil {
						return err
					}
				}
				conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
				if err != nil {
					return err
				}
				defer conn.Close()
				meant, err := newZoneTable(proxyUID)
				if err != nil {
					return err
				}
				for i := range meant.rules {
					if test.mean != nil {
						meant.rules[i] = test.mean(meant.rules[i])
					}
				}
				return meant.check(conn)
			})
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestZoneText: nft shows the table as init prints it. A run replaces that of the release before, and its own, as a
// whole.
func TestZoneText(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		program.Missing(t, "nft: apt-get install nftables")
	}
	const before = "table inet meshless_apart {\n chain meshless_apart {\n type filter hook output priority -300\n meta priority 0:4 ct original zone set 15000\n }\n}\n"
	must(t, inside(t, newNetns(t), func() error {
		old := exec.Command(nft, "-f", "-")
		old.Stdin = strings.NewReader(before)
		if out, err := old.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		for range 2 {
			if err := setZone(proxyUID); err != nil {
				return err
			}
			listed, err := exec.Command(nft, "list", "table", "inet", rules.ZoneTable).CombinedOutput()
			if got := strings.NewReplacer("priority raw", "priority -300", "priority mangle", "priority -150").Replace(string(listed)); err != nil || got != rules.ZoneText(proxyUID) {
				t.Errorf("nft prints\n%s\nand we\n%s\n%v", got, rules.ZoneText(proxyUID), err)
			}
		}
		return nil
	}))
}
