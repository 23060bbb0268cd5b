package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/meshless-dev/meshless/internal/netset"
)

// ParseIPTables reads what Rule.IPTables writes and what iptables-save makes of it. A word that Rule.IPTables does not
// write is an error: two rules that differ in the kernel must not read as one.
func ParseIPTables(spec string) (Rule, error) {
	words, err := split(spec)
	if err != nil {
		return Rule{}, err
	}
	var r Rule
	not, tcp, socket, done := false, false, false, false
	seen := map[string]bool{"-m": false} // a condition that comes twice would hide the first
	for len(words) > 0 && !done {
		word := words[0]
		if seen[word] {
			return Rule{}, fmt.Errorf("not ours: %s comes twice", word)
		}
		seen[word] = word != "-m"
		if word == "!" {
			if len(words) < 2 || words[1] != "-d" && words[1] != "--uid-owner" {
				return Rule{}, errors.New("not ours: ! before something else than -d and --uid-owner")
			}
			not, words, seen["!"] = true, words[1:], false
			continue
		}
		if word == "--socket-exists" {
			socket, words = true, words[1:]
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
		case word == "-m" && (value == "tcp" || value == "owner" || value == "conntrack"):
		default:
			err = r.parseCondition(word, value, not)
			not = false
		}
		if err != nil {
			return Rule{}, fmt.Errorf("not ours: %w", err)
		}
	}
	if !done || len(words) > 0 || tcp != r.onlyTCP() || socket != (r.NotUID != 0) {
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
		if err := (netset.Interfaces{value}).Validate(); err != nil {
			return fmt.Errorf("interface %q", value)
		}
		if word == "-i" {
			r.In = value
		} else {
			r.Out = value
		}
	case "--dport":
		ports, err := netset.ParsePorts(strings.ReplaceAll(value, ":", "-"))
		if err != nil || len(ports) != 1 || strings.ContainsAny(value, ",- ") {
			return fmt.Errorf("port %q", value)
		}
		r.Ports = ports[0]
	case "--uid-owner":
		uid, err := strconv.ParseUint(value, 10, 32)
		if err != nil || uid == 0 {
			return fmt.Errorf("user %q", value)
		}
		if not {
			r.NotUID = uint32(uid)
		} else {
			r.UID = uint32(uid)
		}
	case "--ctdir", "--ctstate":
		asked := r.Tracked != 0
		r.Tracked = map[string]Tracking{"--ctdir ORIGINAL": Original, "--ctstate INVALID": Invalid}[word+" "+value]
		if asked || r.Tracked == 0 {
			return fmt.Errorf("%s %s", word, value)
		}
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
	case value == "DROP":
		r.Refuse = Drop
		return words, nil
	case value == "REJECT" && len(words) >= 2 && words[0] == "--reject-with" && words[1] == "tcp-reset":
		r.Refuse = Reset
		return words[2:], nil
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
