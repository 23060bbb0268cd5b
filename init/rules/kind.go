package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshless-dev/meshless/internal/netset"
)

// Kind is a kind of condition or verdict. Every back end knows every kind: this package in the words of nft and of
// iptables, package apply in the expressions of the kernel. A new one is a field of Rule, a constant, a line of forms,
// and a codec in package apply.
type Kind int

// The kinds, in the order in which nft prints them. KindTCP is for rules that need TCP and have no port.
const (
	KindUser Kind = iota
	KindNotUser
	KindOriginal
	KindInvalid
	KindIn
	KindOut
	KindSource
	KindNotDest
	KindDest
	KindPorts
	KindTCP
	KindRedirect
	KindReset
	KindDrop
	KindGoto
	KindReturn
	Kinds // how many there are
)

// iptablesOrder is that of iptables-save: its own options, those of extensions, the target.
var iptablesOrder = []Kind{KindSource, KindNotDest, KindDest, KindIn, KindOut, KindPorts, KindTCP, KindUser, KindNotUser,
	KindOriginal, KindInvalid, KindRedirect, KindReset, KindDrop, KindGoto, KindReturn}

// form is a kind in the words of nft and of iptables, where %s stands for its value.
type form struct {
	nft      func(value string) string
	iptables string
	value
}

// value reads and writes the fields of a rule in the words of iptables.
type value struct {
	get func(*Rule) string  // empty where the rule has no such condition
	set func(*Rule, string) // may ignore a text that get never returns
}

var forms = [Kinds]form{
	KindUser: {nft("meta skuid %s"), "-m owner --uid-owner %s", number(func(r *Rule) *uint32 { return &r.UID })},
	// without --socket-exists, packets of no socket would be another user's
	KindNotUser:  {nft("meta skuid != %s"), "-m owner --socket-exists ! --uid-owner %s", number(func(r *Rule) *uint32 { return &r.NotUID })},
	KindOriginal: {nft("ct direction original"), "-m conntrack --ctdir ORIGINAL", one(tracked, Original)},
	KindInvalid:  {nft("ct state invalid"), "-m conntrack --ctstate INVALID", one(tracked, Invalid)},
	KindIn:       {nft(`iifname "%s"`), "-i %s", name(func(r *Rule) *string { return &r.In })},
	KindOut:      {nft(`oifname "%s"`), "-o %s", name(func(r *Rule) *string { return &r.Out }, Loopback)},
	KindSource:   {nftAddress("saddr"), "-s %s", prefix(func(r *Rule) *netip.Prefix { return &r.Source }, isNetwork)},
	KindNotDest:  {nftAddress("daddr !="), "! -d %s", prefix(func(r *Rule) *netip.Prefix { return &r.NotDest }, isNetwork)},
	KindDest:     {nftAddress("daddr"), "-d %s", prefix(func(r *Rule) *netip.Prefix { return &r.Dest }, isNetwork)},
	KindPorts:    {nftPorts, "-p tcp -m tcp --dport %s", ports(func(r *Rule) *netset.PortRange { return &r.Ports })},
	KindTCP: {nft("meta l4proto tcp"), "-p tcp", derived(func(r *Rule) bool {
		return r.Ports.First == 0 && (r.RedirectTo != 0 || r.Refuse != 0)
	})},
	KindRedirect: {nft("redirect to :%s"), "-j REDIRECT --to-ports %s", number(func(r *Rule) *uint16 { return &r.RedirectTo })},
	KindReset:    {nft("reject with tcp reset"), "-j REJECT --reject-with tcp-reset", one(refuse, Reset)},
	KindDrop:     {nft("drop"), "-j DROP", one(refuse, Drop)},
	KindGoto:     {nftGoto, "-g %s", chain(func(r *Rule) *string { return &r.Goto })},
	KindReturn:   {nft("return"), "-j RETURN", derived(func(r *Rule) bool { return r.RedirectTo == 0 && r.Refuse == 0 && r.Goto == "" })},
}

// In tells whether the rule has a condition or verdict of the kind.
func (k Kind) In(r Rule) bool { return forms[k].get(&r) != "" }

// String is the rule as nft prints it.
func (r Rule) String() string {
	var words []string
	for _, f := range forms {
		if v := f.get(&r); v != "" {
			words = append(words, f.nft(v))
		}
	}
	if r.Why != "" {
		words = append(words, `comment "`+r.Why+`"`) // nft has no escapes: a comment holds no double quote
	}
	return strings.Join(words, " ")
}

// IPTables is the rule as iptables-save prints it, without its chain.
func (r Rule) IPTables() string {
	r = r.canonical()
	var words []string
	for _, k := range iptablesOrder {
		words = append(words, forms[k].words(&r)...)
	}
	return strings.Join(words, " ")
}

// words are those of iptables for the rule's value; none where it has none.
func (f form) words(r *Rule) []string {
	v := f.get(r)
	if v == "" {
		return nil
	}
	return strings.Fields(strings.Replace(f.iptables, "%s", v, 1))
}

// ParseIPTables reads what Rule.IPTables writes and what iptables-save makes of it, in any order of the options. A word
// that Rule.IPTables does not write is an error: two rules that differ in the kernel must not read as one.
func ParseIPTables(spec string) (Rule, error) {
	words, err := split(spec)
	if err != nil {
		return Rule{}, fmt.Errorf("not ours: %w", err)
	}
	var r Rule
	var read [Kinds][]string
	for k, f := range forms {
		if read[k] = f.take(words); read[k] != nil {
			f.set(&r, read[k][len(read[k])-1])
		}
	}
	for k, f := range forms {
		if !slices.Equal(f.words(&r), read[k]) {
			return Rule{}, fmt.Errorf("not ours: %q", spec)
		}
	}
	if slices.ContainsFunc(words, func(w string) bool { return w != taken }) {
		return Rule{}, fmt.Errorf("not ours: %q", spec)
	}
	return r, nil
}

// taken stands where a word was, so that words around it do not become neighbours. No line has it.
const taken = "\n"

// take returns the words that are the form's, of which only the last can be a value, and leaves taken in their place.
func (f form) take(words []string) []string {
	want := strings.Fields(f.iptables)
	for i := range len(words) - len(want) + 1 {
		found := words[i : i+len(want)]
		if !slices.EqualFunc(want, found, func(w, word string) bool { return w == word || w == "%s" && word != taken }) {
			continue
		}
		of := slices.Clone(found)
		for j := range found {
			found[j] = taken
		}
		return of
	}
	return nil
}

func nft(format string) func(string) string {
	return func(v string) string { return strings.Replace(format, "%s", v, 1) }
}

func nftAddress(keyword string) func(string) string {
	return func(v string) string {
		family := "ip"
		p := netip.MustParsePrefix(v)
		if p.Addr().Is6() {
			family = "ip6"
		}
		if p.IsSingleIP() {
			v = p.Addr().String()
		}
		return family + " " + keyword + " " + v
	}
}

func nftPorts(v string) string { return "tcp dport " + strings.Replace(v, ":", "-", 1) }

// nftGoto names the chain as nftables has it.
func nftGoto(v string) string { return "goto " + strings.ToLower(strings.TrimPrefix(v, ChainPrefix)) }

func tracked(r *Rule) *Tracking { return &r.Tracked }

func refuse(r *Rule) *Refusal { return &r.Refuse }

// field is a field whose zero value sets no condition. A text that cannot be parsed leaves it.
func field[T comparable](at func(*Rule) *T, text func(T) string, parse func(string) (T, error)) value {
	var none T
	return value{
		func(r *Rule) string {
			if *at(r) == none {
				return ""
			}
			return text(*at(r))
		},
		func(r *Rule, s string) {
			if v, err := parse(s); err == nil {
				*at(r) = v
			}
		},
	}
}

func number[T uint16 | uint32](at func(*Rule) *T) value {
	return field(at, func(n T) string { return fmt.Sprint(n) }, func(s string) (T, error) {
		n, err := strconv.ParseUint(s, 10, 32)
		return T(n), err
	})
}

// name is an interface's. Beside those that netset allows there may be others.
func name(at func(*Rule) *string, others ...string) value {
	return field(at, strings.Clone, func(s string) (string, error) {
		if slices.Contains(others, s) {
			return s, nil
		}
		return s, netset.Interfaces{s}.Validate()
	})
}

// chain is one to which a rule may lead, in iptables by its name there.
func chain(at func(*Rule) *string) value {
	return field(at, func(name string) string { return Chain{Name: name}.own() }, func(s string) (string, error) {
		for _, name := range []string{Outbound, Refused} {
			if s == (Chain{Name: name}).own() {
				return name, nil
			}
		}
		return "", strconv.ErrRange
	})
}

// prefix is a network, or an address as a network of one.
func prefix(at func(*Rule) *netip.Prefix, valid func(netip.Prefix) bool) value {
	return field(at, netip.Prefix.String, func(s string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(s)
		if err == nil && !valid(p) {
			err = strconv.ErrRange
		}
		return p, err
	})
}

// isNetwork is for networks that are a condition, which every address is not.
func isNetwork(p netip.Prefix) bool { return p.Bits() > 0 && p == p.Masked() }

func ports(at func(*Rule) *netset.PortRange) value {
	return field(at, func(r netset.PortRange) string { return strings.Replace(r.String(), "-", ":", 1) },
		func(s string) (netset.PortRange, error) {
			set, err := netset.ParsePorts(strings.Replace(s, ":", "-", 1))
			if len(set) != 1 {
				return netset.PortRange{}, strconv.ErrRange
			}
			return set[0], err
		})
}

// one is one of the values of a field; its words say it whole.
func one[T comparable](at func(*Rule) *T, is T) value {
	v := derived(func(r *Rule) bool { return *at(r) == is })
	v.set = func(r *Rule, _ string) { *at(r) = is }
	return v
}

// derived is what other fields say already.
func derived(holds func(*Rule) bool) value {
	return value{
		func(r *Rule) string {
			if holds(r) {
				return "yes"
			}
			return ""
		},
		func(*Rule, string) {},
	}
}
