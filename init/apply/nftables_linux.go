package apply

import (
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"

	"github.com/meshless-dev/meshless/init/rules"
)

const (
	timeout = 10 * time.Second // for each exchange with the kernel, which answers in milliseconds

	// The kernel takes a transaction as one message and answers every rule of it; the default of 208 KiB ends at some
	// hundred excluded ports. The memory is used only as needed.
	netlinkBuffer = 8 << 20
)

// writeNFTables puts the rules into the kernel over netlink and returns them as read back, in nft's words. Where the
// kernel lacks no more than the reset of the egress filter, the egress filter drops, and a comment in front of the text
// says so.
func writeNFTables(want rules.Ruleset, proxy uint32) (string, error) {
	return writeNFTablesBy(replace, want, proxy)
}

func writeNFTablesBy(replace func(*nftables.Conn, rules.Ruleset) error, want rules.Ruleset, proxy uint32) (string, error) {
	conn, err := nftables.New(nftables.WithSockOptions(configure))
	if err != nil {
		return "", explainNFTables("open netlink", err)
	}
	if err := refuseForeign(conn); err != nil {
		return "", err
	}
	note := ""
	err = replace(conn, want)
	if noNFTables(err) {
		note, want = noReset(err), want.Dropping()
		err = replace(conn, want)
	}
	if err != nil {
		return "", err
	}
	got, err := readBack(conn, want)
	if err != nil {
		return "", err
	}
	switch err := setZone(proxy); {
	case noNFTables(err):
		return note + noZones(err) + got.String(), nil
	case err != nil:
		return "", err
	}
	return note + got.String() + rules.ZoneText(proxy), nil
}

// noReset is what is printed where the egress filter drops because of this error.
func noReset(err error) string {
	return fmt.Sprintf("# this kernel cannot reject (%s), so the egress filter drops: what it refuses gets no error and waits in vain\n", cause(err))
}

// configure bounds every wait, and makes room for long rule sets.
func configure(c *netlink.Conn) error {
	if err := c.SetReadBuffer(netlinkBuffer); err != nil {
		return err
	}
	if err := c.SetWriteBuffer(netlinkBuffer); err != nil {
		return err
	}
	return c.SetDeadline(time.Now().Add(timeout))
}

// replace defines the table anew in one transaction. Deleting a table that is not there is an error, hence the first
// AddTable, which changes nothing if it is there.
func replace(conn *nftables.Conn, set rules.Ruleset) error {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: rules.Table}
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	var chains []*nftables.Chain
	for _, c := range set.Chains { // all before the first rule, which may lead to the last of them
		chain, err := makeChain(table, c)
		if err != nil {
			return err
		}
		chains = append(chains, conn.AddChain(chain))
	}
	for i, c := range set.Chains {
		for _, r := range c.Rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chains[i], Exprs: encode(r), UserData: comment(r)})
		}
	}
	if err := conn.Flush(); err != nil {
		return explainNFTables("write table inet "+rules.Table, err)
	}
	return nil
}

func makeChain(table *nftables.Table, c rules.Chain) (*nftables.Chain, error) {
	if !c.Base() {
		return &nftables.Chain{Table: table, Name: c.Name}, nil
	}
	hooks := map[string]*nftables.ChainHook{rules.Prerouting: nftables.ChainHookPrerouting, rules.Output: nftables.ChainHookOutput}
	hook, ok := hooks[c.Hook()]
	if !ok {
		return nil, fmt.Errorf("chain %q: no hook is named so", c.Name)
	}
	policy := nftables.ChainPolicyAccept
	return &nftables.Chain{
		Table: table, Name: c.Name, Type: nftables.ChainType(c.Type()), Hooknum: hook,
		Priority: nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority())), Policy: &policy,
	}, nil
}

// comment is the rule's reason in the form in which nft stores and shows it.
func comment(r rules.Rule) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, r.Why)
}
