package apply

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/meshless-dev/meshless/init/rules"
)

// readBack returns the rules that the kernel holds in our table, in words of package rules. It is an error if they are
// not, chain by chain and expression by expression, what was meant; handles are the kernel's and are not compared.
func readBack(conn *nftables.Conn, want rules.Ruleset) (rules.Ruleset, error) {
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return rules.Ruleset{}, explainNFTables("read the chains back", err)
	}
	held := map[string]*nftables.Chain{}
	for _, c := range chains {
		if c.Table.Name == rules.Table {
			held[c.Name] = c
		}
	}
	if len(held) != len(want.Chains) {
		return rules.Ruleset{}, fmt.Errorf("table inet %s holds %d chains instead of %d: is something else writing to it?", rules.Table, len(held), len(want.Chains))
	}
	var got rules.Ruleset
	for _, w := range want.Chains {
		c, err := readChain(conn, w, held[w.Name])
		if err != nil {
			return rules.Ruleset{}, fmt.Errorf("table inet %s differs from what was written: chain %s: %w", rules.Table, w.Name, err)
		}
		got.Chains = append(got.Chains, c)
	}
	return got, nil
}

func readChain(conn *nftables.Conn, want rules.Chain, held *nftables.Chain) (rules.Chain, error) {
	if held == nil {
		return rules.Chain{}, fmt.Errorf("is missing")
	}
	meant, err := makeChain(held.Table, want)
	if err != nil {
		return rules.Chain{}, err
	}
	if !reflect.DeepEqual(held, meant) { // type, hook, priority and policy
		if !want.Base() {
			return rules.Chain{}, fmt.Errorf("has a hook")
		}
		return rules.Chain{}, fmt.Errorf("is not a %s chain of its hook at priority %d with policy accept", want.Type(), want.Priority())
	}
	lines, err := conn.GetRules(held.Table, held)
	if err != nil {
		return rules.Chain{}, fmt.Errorf("read the rules back: %w", err)
	}
	got := rules.Chain{Name: held.Name}
	for i, line := range lines {
		if i >= len(want.Rules) || !reflect.DeepEqual(line.Exprs, encode(want.Rules[i])) || !bytes.Equal(line.UserData, comment(want.Rules[i])) {
			return rules.Chain{}, fmt.Errorf("rule %d is %s, meant was %s", i+1, describe(line.Exprs), meantRule(want.Rules, i))
		}
		r, err := decode(line.Exprs)
		if err != nil {
			return rules.Chain{}, fmt.Errorf("rule %d: %w", i+1, err)
		}
		r.Why, _ = userdata.GetString(line.UserData, userdata.TypeComment)
		got.Rules = append(got.Rules, r)
	}
	if len(lines) < len(want.Rules) {
		return rules.Chain{}, fmt.Errorf("rule %d is missing: %s", len(lines)+1, want.Rules[len(lines)])
	}
	return got, nil
}

func meantRule(meant []rules.Rule, i int) string {
	if i < len(meant) {
		return meant[i].String()
	}
	return "no further rule"
}

// describe shows a rule that is not what was meant: in nft's words if it is of a known form, else as expressions.
func describe(exprs []expr.Any) string {
	if r, err := decode(exprs); err == nil {
		return r.String()
	}
	parts := make([]string, len(exprs))
	for i, e := range exprs {
		parts[i] = strings.TrimPrefix(fmt.Sprintf("%T%+v", e, e), "*expr.")
	}
	return "[" + strings.Join(parts, " ") + "]"
}
