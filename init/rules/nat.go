package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshless-dev/meshless/internal/contract"
)

// NAT is a nat table as iptables-save prints it. The zero value is a table that holds nothing.
type NAT struct {
	Chains []string  // the built-in ones and all others
	Rules  []NATRule // in the order of the text, which within a chain is the order in which they are tried
}

// NATRule is one line of a NAT.
type NATRule struct{ Chain, Spec string }

// ParseNAT reads what iptables-save -t nat prints. Comments and counters are left out. Text of another form is an error that quotes the line.
func ParseNAT(text string) (NAT, error) {
	var n NAT
	table := ""
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '*':
			table = line[1:]
		case line == "COMMIT":
			table = ""
		case table != "nat":
			return NAT{}, fmt.Errorf("table %q: %q is not of the table nat", table, line)
		case line[0] == ':':
			name, _, _ := strings.Cut(line[1:], " ")
			n.Chains = append(n.Chains, name)
		default:
			verb, rest, _ := strings.Cut(line, " ")
			chain, spec, ok := strings.Cut(rest, " ")
			if verb != "-A" || !ok {
				return NAT{}, fmt.Errorf("%q is not a line of iptables-save", line)
			}
			n.Rules = append(n.Rules, NATRule{chain, spec})
		}
	}
	return n, nil
}

// Ours tells whether the table holds something that an earlier run left.
func (n NAT) Ours() bool { return len(n.own()) > 0 || n.unjump() != "" }

// Clean is the text for iptables-restore --noflush that takes out what Ours sees, and nothing else.
func (n NAT) Clean() string {
	return "*nat\n" + n.unjump() + n.drop(nil) + "COMMIT\n"
}

func (n NAT) own() (chains []string) {
	for _, c := range n.Chains {
		if strings.HasPrefix(c, ChainPrefix) {
			chains = append(chains, c)
		}
	}
	return chains
}

// unjump deletes each rule of a chain of others that leads into one of ours, word by word as it was printed.
func (n NAT) unjump() string {
	var out strings.Builder
	for _, r := range n.Rules {
		if !strings.HasPrefix(r.Chain, ChainPrefix) && strings.HasPrefix(target(r.Spec), ChainPrefix) {
			fmt.Fprintf(&out, "-D %s %s\n", r.Chain, r.Spec)
		}
	}
	return out.String()
}

// drop deletes our chains but for those to keep. All are emptied before the first is deleted, as one may lead into another.
func (n NAT) drop(keep []string) string {
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

// Compare returns the rules that the table holds, with the reasons of those that were meant. It is an error if they are not, chain by chain and rule by rule,
// what was meant for the family, if our chains are not reached first, or if another chain of ours is there.
func (n NAT) Compare(f Family, want Ruleset) (Ruleset, error) {
	if got := n.own(); len(got) != len(want.Chains) {
		return Ruleset{}, fmt.Errorf("%d chains instead of %d: is something else writing to it?", len(got), len(want.Chains))
	}
	var got Ruleset
	for _, w := range want.Of(f).Chains {
		if first := n.chain(builtin[w.Name]); len(first) == 0 || first[0] != jump(w) {
			return Ruleset{}, fmt.Errorf("chain %s does not begin with %q", builtin[w.Name], jump(w))
		}
		c, err := compareChain(w, n.chain(ownChain(w.Name)))
		if err != nil {
			return Ruleset{}, fmt.Errorf("chain %s: %w", ownChain(w.Name), err)
		}
		got.Chains = append(got.Chains, c)
	}
	if jumps := strings.Count(n.unjump(), "\n"); jumps != len(want.Chains) {
		return Ruleset{}, fmt.Errorf("%d jumps to our chains instead of %d", jumps, len(want.Chains))
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

func (n NAT) chain(name string) (specs []string) {
	for _, r := range n.Rules {
		if r.Chain == name {
			specs = append(specs, r.Spec)
		}
	}
	return specs
}

// ParseIPTables reads what Rule.IPTables writes and what iptables-save makes of it. A word that Rule.IPTables does not write is an error: two rules that
// differ in the kernel must not read as one.
func ParseIPTables(spec string) (Rule, error) {
	words, err := split(spec)
	if err != nil {
		return Rule{}, err
	}
	var r Rule
	not, tcp, done := false, false, false
	seen := map[string]bool{"-m": false} // a condition that comes twice would hide the first
	for len(words) > 0 && !done {
		word := words[0]
		if seen[word] {
			return Rule{}, fmt.Errorf("not ours: %s comes twice", word)
		}
		seen[word] = word != "-m"
		if word == "!" {
			if len(words) < 2 || words[1] != "-d" {
				return Rule{}, errors.New("not ours: ! before something else than -d")
			}
			not, words = true, words[1:]
			continue
		}
		if len(words) < 2 {
			return Rule{}, fmt.Errorf("not ours: %q has no value", word)
		}
		value := words[1]
		words = words[2:]
		switch {
		case word == "-p" && value == "tcp":
			tcp = true
		case word == "-j":
			words, err = r.parseVerdict(value, words)
			done = true
		case word == "-m" && (value == "tcp" || value == "owner"):
		default:
			err = r.parseCondition(word, value, not)
			not = false
		}
		if err != nil {
			return Rule{}, fmt.Errorf("not ours: %w", err)
		}
	}
	if !done || len(words) > 0 || tcp != (r.Ports.First != 0 || r.RedirectTo != 0) {
		return Rule{}, fmt.Errorf("not ours: %q", spec)
	}
	return r, nil
}

func (r *Rule) parseCondition(word, value string, not bool) error {
	switch word {
	case "-s":
		p, err := parsePrefix(value)
		if err == nil && !p.IsSingleIP() {
			err = fmt.Errorf("source %q is no address", value)
		}
		r.Source = p.Addr()
		return err
	case "-d":
		p, err := parsePrefix(value)
		if err == nil && p.Bits() == 0 { // every address is no condition, and outside of it is nowhere
			if not {
				return fmt.Errorf("! -d %s", value)
			}
			return nil
		}
		r.Dest, r.Outside = p, not
		return err
	case "-i", "-o":
		if word == "-o" && value == "lo" {
			r.Loopback = true
			return nil
		}
		if err := (contract.Interfaces{value}).Validate(); err != nil {
			return fmt.Errorf("interface %q", value)
		}
		if word == "-i" {
			r.In = value
		} else {
			r.Out = value
		}
	case "--dport":
		ports, err := contract.ParsePorts(strings.ReplaceAll(value, ":", "-"))
		if err != nil || len(ports) != 1 || strings.ContainsAny(value, ",- ") {
			return fmt.Errorf("port %q", value)
		}
		r.Ports = ports[0]
	case "--uid-owner":
		uid, err := strconv.ParseUint(value, 10, 32)
		if err != nil || uid == 0 {
			return fmt.Errorf("user %q", value)
		}
		r.UID = uint32(uid)
	default:
		return fmt.Errorf("%s %s", word, value)
	}
	return nil
}

// parseVerdict reads the end of a rule and returns the words that are left.
func (r *Rule) parseVerdict(value string, words []string) ([]string, error) {
	switch {
	case value == "RETURN":
		return words, nil
	case value == "REDIRECT" && len(words) >= 2 && words[0] == "--to-ports":
		port, err := strconv.ParseUint(words[1], 10, 16)
		if err != nil || port == 0 {
			return nil, fmt.Errorf("port %q", words[1])
		}
		r.RedirectTo = uint16(port)
		return words[2:], nil
	}
	return nil, fmt.Errorf("target %s", value)
}

// parsePrefix reads a network; a bare address is a network of one.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && p != p.Masked() {
		err = fmt.Errorf("%q has host bits set", s)
	}
	return p, err
}

// split cuts a line into words as iptables-restore does: double quotes hold words together, a backslash takes the next character as it is.
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
