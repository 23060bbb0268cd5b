package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Held is what the tables of one iptables hold, by their names; see Tables. One that is not there holds nothing.
type Held map[string]Saved

// Saved is a table as iptables-save prints it. The zero value is a table that holds nothing.
type Saved struct {
	Chains []string    // the built-in ones and all others
	Rules  []SavedRule // in the order of the text, which within a chain is the order in which they are tried
}

// SavedRule is one line of a Saved.
type SavedRule struct{ Chain, Spec string }

// ParseSaved reads what iptables-save -t prints of a table. Comments and counters are left out. Text of another form is
// an error that quotes the line.
func ParseSaved(name, text string) (Saved, error) {
	var n Saved
	table := ""
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '*':
			table = line[1:]
		case line == "COMMIT":
			table = ""
		case table != name:
			return Saved{}, fmt.Errorf("table %q: %q is not of the table %s", table, line, name)
		case line[0] == ':':
			name, _, _ := strings.Cut(line[1:], " ")
			n.Chains = append(n.Chains, name)
		default:
			verb, rest, _ := strings.Cut(line, " ")
			chain, spec, ok := strings.Cut(rest, " ")
			if verb != "-A" || !ok {
				return Saved{}, fmt.Errorf("%q is not a line of iptables-save", line)
			}
			n.Rules = append(n.Rules, SavedRule{chain, spec})
		}
	}
	return n, nil
}

// Ours tells whether the table holds something that an earlier run left.
func (n Saved) Ours() bool { return len(n.own()) > 0 || n.unjump() != "" }

// Clean is the text for iptables-restore --noflush that takes out of the table of this name what Ours sees, and nothing
// else.
func (n Saved) Clean(name string) string {
	return "*" + name + "\n" + n.unjump() + n.drop(nil) + "COMMIT\n"
}

func (n Saved) own() (chains []string) {
	for _, c := range n.Chains {
		if strings.HasPrefix(c, ChainPrefix) {
			chains = append(chains, c)
		}
	}
	return chains
}

// unjump deletes each rule of a chain of others that leads into one of ours, word by word as it was printed.
func (n Saved) unjump() string {
	var out strings.Builder
	for _, r := range n.Rules {
		if !strings.HasPrefix(r.Chain, ChainPrefix) && strings.HasPrefix(target(r.Spec), ChainPrefix) {
			fmt.Fprintf(&out, "-D %s %s\n", r.Chain, r.Spec)
		}
	}
	return out.String()
}

// drop deletes our chains but for those to keep. All are emptied before the first is deleted, as one may lead into
// another.
func (n Saved) drop(keep []string) string {
	var flush, remove strings.Builder
	for _, c := range n.own() {
		if !slices.Contains(keep, c) {
			fmt.Fprintf(&flush, "-F %s\n", c)
			fmt.Fprintf(&remove, "-X %s\n", c)
		}
	}
	return flush.String() + remove.String()
}

func target(spec string) string {
	words, err := split(spec)
	if err != nil {
		return ""
	}
	for i, w := range words {
		if (w == "-j" || w == "-g") && i+1 < len(words) {
			return words[i+1]
		}
	}
	return ""
}

// Compare returns the rules that the tables hold, with the reasons of those that were meant. It is an error if they are
// not, chain by chain and rule by rule, what was meant for the family, if our chains are not reached first, or if
// another chain of ours is there.
func (h Held) Compare(f Family, want Ruleset) (Ruleset, error) {
	for _, table := range Tables {
		if got, meant := len(h[table].own()), len(want.in(table)); got != meant {
			return Ruleset{}, fmt.Errorf("table %s: %d chains instead of %d: is something else writing to it?", table, got, meant)
		}
	}
	var got Ruleset
	for _, w := range want.Of(f).Chains {
		c, err := h[w.Type()].compare(w)
		if err != nil {
			return Ruleset{}, fmt.Errorf("table %s: %w", w.Type(), err)
		}
		got.Chains = append(got.Chains, c)
	}
	for _, table := range Tables {
		if jumps, meant := strings.Count(h[table].unjump(), "\n"), len(want.base(table)); jumps != meant {
			return Ruleset{}, fmt.Errorf("table %s: %d jumps to our chains instead of %d", table, jumps, meant)
		}
	}
	return got, nil
}

// compare returns the chain as the table holds it.
func (n Saved) compare(want Chain) (Chain, error) {
	if first := n.chain(want.builtin()); want.Base() && (len(first) == 0 || first[0] != jump(want)) {
		return Chain{}, fmt.Errorf("chain %s does not begin with %q", want.builtin(), jump(want))
	}
	got, err := compareChain(want, n.chain(want.own()))
	if err != nil {
		return Chain{}, fmt.Errorf("chain %s: %w", want.own(), err)
	}
	return got, nil
}

func compareChain(want Chain, held []string) (Chain, error) {
	got := Chain{Name: want.Name}
	for i, spec := range held {
		meant := "no further rule"
		if i < len(want.Rules) {
			meant = want.Rules[i].IPTables()
		}
		r, err := ParseIPTables(spec)
		if err != nil {
			return Chain{}, fmt.Errorf("rule %d is %s, meant was %s: %w", i+1, spec, meant, err)
		}
		if i >= len(want.Rules) || r != want.Rules[i].canonical() {
			return Chain{}, fmt.Errorf("rule %d is %s, meant was %s", i+1, spec, meant)
		}
		r.Why = want.Rules[i].Why
		got.Rules = append(got.Rules, r)
	}
	if len(held) < len(want.Rules) {
		return Chain{}, fmt.Errorf("rule %d is missing: %s", len(held)+1, want.Rules[len(held)].IPTables())
	}
	return got, nil
}

func (n Saved) chain(name string) (specs []string) {
	for _, r := range n.Rules {
		if r.Chain == name {
			specs = append(specs, r.Spec)
		}
	}
	return specs
}

// split cuts a line into words as iptables-restore does: double quotes hold words together, a backslash takes the next
// character as it is.
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	quoted, started := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			started = true
		case c == '"':
			quoted, started = !quoted, true
		case (c == ' ' || c == '\t') && !quoted:
			if started {
				words = append(words, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteByte(c)
			started = true
		}
	}
	if quoted {
		return nil, errors.New("a quote without end")
	}
	if started {
		words = append(words, word.String())
	}
	return words, nil
}
