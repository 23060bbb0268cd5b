package apply

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
)

// TestZoneIsReadBack: what the kernel holds is compared with what was meant, in each of its parts.
func TestZoneIsReadBack(t *testing.T) {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: rules.ZoneTable}
	chain := &nftables.Chain{Table: table, Name: rules.ZoneTable}
	drop := nftables.ChainPolicyDrop
	for name, test := range map[string]struct {
		tamper func(*nftables.Conn)
		mean   func(rule []byte) []byte
		want   string // "" is no error
	}{
		"as it was written": {},
		"a second rule": {want: "holds 2 rules instead of one", tamper: func(c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}})
		}},
		"no rule":        {want: "holds 0 rules instead of one", tamper: func(c *nftables.Conn) { c.FlushChain(chain) }},
		"a second chain": {want: "holds 2 chains instead of one", tamper: func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Table: table, Name: "other"}) }},
		"another policy": {want: "its chain is", tamper: func(c *nftables.Conn) {
			c.AddChain(&nftables.Chain{Table: table, Name: rules.ZoneTable, Policy: &drop})
		}},
		"no table": {want: "holds 0 chains instead of one", tamper: func(c *nftables.Conn) { c.DelTable(table) }},
		"another rule": {want: "its rule is [meta ", tamper: func(c *nftables.Conn) {
			c.FlushChain(chain)
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{meta(expr.MetaKeySKUID), equal([]byte{0, 0, 0, 0}), &expr.Verdict{Kind: expr.VerdictReturn}}})
		}},
		// What google/nftables cannot say is compared as well: the direction of the zone.
		"another direction": {want: "its rule is [meta ", mean: func(rule []byte) []byte {
			direction := func(d byte) []byte {
				return nested(0, netlink.Attribute{Type: unix.NFTA_CT_DIRECTION, Data: []byte{d}}).Data
			}
			return bytes.ReplaceAll(rule, direction(0), direction(1))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			err := inside(t, newNetns(t), func() error {
				if err := setZone(); err != nil {
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
				rule, err := zoneRule()
				if err == nil && test.mean != nil {
					rule = test.mean(rule)
				}
				if err != nil {
					return err
				}
				return checkZone(conn, rule)
			})
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
