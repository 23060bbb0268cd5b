package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// full is a set that has a rule of each form.
func full(t testing.TB) Ruleset {
	t.Helper()
	cidrs, err := netset.ParsePrefixes("10.1.0.0/16,192.0.2.7/32,0.0.0.0/0,fd00::/8,2001:db8::7/128,::/0")
	if err != nil {
		t.Fatal(err)
	}
	set, err := New(podplan.InitArgs{
		ProxyUID: 15000, ExcludeInboundPorts: netset.Ports{{First: 22, Last: 22}, {First: 9000, Last: 9010}},
		ExcludeOutboundPorts: netset.PortsOf(25), ExcludeOutboundCIDRs: cidrs,
		ExcludeInboundInterfaces: netset.Interfaces{"docker0", "net1"}, ExcludeOutboundInterfaces: netset.Interfaces{"net1"}, ExcludeOutboundUIDs: netset.UIDs{1001},
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// restored is what iptables-save prints, table after table, after IPTables was restored into empty tables.
func restored(set Ruleset, f Family) string {
	text := strings.ReplaceAll(set.IPTables(f), "-I ", "-A ")
	text = strings.Replace(text, "*nat\n", "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n", 1)
	return strings.Replace(text, "*filter\n", "# Generated\n*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n", 1)
}

func parsed(t *testing.T, text string) Held {
	t.Helper()
	held := Held{}
	for _, table := range Tables {
		_, of, _ := strings.Cut(text, "*"+table+"\n")
		of, _, _ = strings.Cut(of, "COMMIT\n")
		n, err := ParseSaved(table, "*"+table+"\n"+of+"COMMIT\n")
		if err != nil {
			t.Fatal(err)
		}
		held[table] = n
	}
	return held
}

// Both back ends mean the same: what iptables reads says, rule by rule, what nft reads says, but for what the other
// family alone would match.
func TestBothTextsSayTheSame(t *testing.T) {
	set := full(t)
	for _, f := range []Family{IPv4, IPv6} {
		got, err := parsed(t, restored(set, f)).Compare(f, set)
		if err != nil {
			t.Fatal(err)
		}
		want := set.Of(f)
		for i := range want.Chains {
			for j, r := range want.Chains[i].Rules {
				why := r.Why
				want.Chains[i].Rules[j] = r.canonical()
				want.Chains[i].Rules[j].Why = why
			}
		}
		if diff := cmp.Diff(want.String(), got.String()); diff != "" {
			t.Errorf("%s: -want +got:\n%s", f, diff)
		}
		other := map[Family]string{IPv4: "ip6 ", IPv6: "ip "}[f]
		if strings.Contains(got.String(), " "+other) || strings.Contains(got.String(), "\t"+other) {
			t.Errorf("%s: a rule of the other family in\n%s", f, got)
		}
	}
	for i, c := range set.Chains { // and no rule belongs to neither
		for _, r := range c.Rules {
			if !slices.Contains(set.Of(IPv4).Chains[i].Rules, r) && !slices.Contains(set.Of(IPv6).Chains[i].Rules, r) {
				t.Errorf("%s: no family has %s", c.Name, r)
			}
		}
	}
}

func TestCompareNoticesDifferences(t *testing.T) {
	set := full(t)
	held := restored(set, IPv4)
	for name, c := range map[string]struct{ old, with, want string }{
		"a rule in front":            {"-A MESHLESS_PREROUTING", "-A MESHLESS_PREROUTING -j RETURN\n-A MESHLESS_PREROUTING", "rule 1 is -j RETURN, meant was -d 127.0.0.0/8 -p tcp -j REDIRECT --to-ports 15006"},
		"a rule behind":              {"-A OUTPUT -p tcp -j MESHLESS_OUTPUT", "-A MESHLESS_OUTPUT -j RETURN\n-A OUTPUT -p tcp -j MESHLESS_OUTPUT", "meant was no further rule"},
		"a rule less":                {"-A MESHLESS_OUTBOUND -p tcp -j REDIRECT --to-ports 15001\n", "", "is missing: -p tcp -j REDIRECT --to-ports 15001"},
		"another user":               {"-A MESHLESS_OUTPUT -m owner --uid-owner 15000", "-A MESHLESS_OUTPUT -m owner --uid-owner 15001", "--uid-owner 15001"},
		"another port":               {"--to-ports 15001", "--to-ports 15002", "--to-ports 15002"},
		"not negated":                {"! -d 127", "-d 127", "meant was ! -d 127.0.0.0/8"},
		"another extension":          {"-A MESHLESS_OUTBOUND -p tcp -j REDIRECT", "-A MESHLESS_OUTBOUND -p tcp -m mark --mark 1 -j REDIRECT", "-m mark"},
		"another interface":          {"-s 198.18.0.0/15 -o lo", "-s 198.18.0.0/15 -o eth0", "eth0"},
		"no jump":                    {"-A OUTPUT -p tcp -j MESHLESS_OUTPUT\n", "", "OUTPUT does not begin with"},
		"a jump too much":            {"-A OUTPUT -p tcp -j MESHLESS_OUTPUT\n", "-A OUTPUT -p tcp -j MESHLESS_OUTPUT\n-A OUTPUT -p tcp -j MESHLESS_OUTPUT\n", "3 jumps"},
		"no egress filter":           {"-A OUTPUT -p tcp -j MESHLESS_GUARD\n", "", "table filter: chain OUTPUT does not begin with"},
		"a rule before it":           {"-A OUTPUT -p tcp -j MESHLESS_GUARD", "-A OUTPUT -j ACCEPT\n-A OUTPUT -p tcp -j MESHLESS_GUARD", "table filter: chain OUTPUT does not begin with"},
		"a gap in the egress filter": {"-A MESHLESS_GUARD -o lo -j RETURN", "-A MESHLESS_GUARD -j RETURN", "chain MESHLESS_GUARD: rule 7 is -j RETURN, meant was -o lo -j RETURN"},
		"answers refused":            {"15000 -m conntrack --ctdir ORIGINAL -j", "15000 -j", "meant was -s 198.18.0.0/15 -p tcp -m owner --socket-exists ! --uid-owner 15000 -m conntrack --ctdir ORIGINAL"},
		"another end":                {"-g MESHLESS_REFUSED", "-g MESHLESS_OTHER", "not ours"},
		"a jump that comes back":     {"-g MESHLESS_OUTBOUND", "-j MESHLESS_OUTBOUND", "not ours"},
		"orphans refused":            {"--socket-exists ! --uid", "! --uid", "not ours"},
		"another refusal":            {"--ctdir ORIGINAL -j REJECT --reject-with tcp-reset", "--ctdir ORIGINAL -j DROP", "--ctdir ORIGINAL -j DROP, meant was"},
		"a foreign rule first":       {"-A OUTPUT -p tcp -j MESHLESS_OUTPUT", "-A OUTPUT -j ACCEPT\n-A OUTPUT -p tcp -j MESHLESS_OUTPUT", "OUTPUT does not begin with"},
		"a narrower jump":            {"-A OUTPUT -p tcp -j MESHLESS_OUTPUT", "-A OUTPUT -p tcp -m tcp --dport 1 -j MESHLESS_OUTPUT", "OUTPUT does not begin with"},
		"a chain of ours":            {":MESHLESS_OUTPUT", ":MESHLESS_OLD - [0:0]\n:MESHLESS_OUTPUT", "4 chains instead of 3"},
		"no chain":                   {":MESHLESS_OUTPUT - [0:0]\n", "", "2 chains instead of 3"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(held, c.old, c.with, 1)
			if text == held {
				t.Fatalf("%q is not in\n%s", c.old, held)
			}
			if _, err := parsed(t, text).Compare(IPv4, set); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one that says %q", err, c.want)
			}
		})
	}
}

// A second run's text deletes each jump of the first one and refills its chains; a chain of an older release goes, what
// is not ours is not named.
func TestRestoreReplaces(t *testing.T) {
	set := full(t)
	jump := "-A OUTPUT -p tcp -j MESHLESS_OUTPUT\n"
	text := strings.Replace(restored(set, IPv4), jump, jump+"-A OUTPUT -m comment --comment \"old one\" -j MESHLESS_OLD\n-A OUTPUT -j CNI\n", 1)
	text = strings.Replace(text, ":PREROUTING", ":MESHLESS_OLD - [0:0]\n:CNI - [0:0]\n:PREROUTING", 1)
	held := parsed(t, text)
	got := set.Restore(IPv4, held)
	want := "*nat\n:MESHLESS_PREROUTING - [0:0]\n:MESHLESS_OUTPUT - [0:0]\n:MESHLESS_OUTBOUND - [0:0]\n" +
		"-D PREROUTING -p tcp -j MESHLESS_PREROUTING\n-D OUTPUT -p tcp -j MESHLESS_OUTPUT\n-D OUTPUT -m comment --comment \"old one\" -j MESHLESS_OLD\n" +
		"-F MESHLESS_OLD\n-X MESHLESS_OLD\n#"
	if filter := "*filter\n:MESHLESS_GUARD - [0:0]\n:MESHLESS_REFUSED - [0:0]\n-D OUTPUT -p tcp -j MESHLESS_GUARD\n#"; !strings.HasPrefix(got, filter) {
		t.Errorf("got\n%s\nwant at its begin\n%s", got, filter)
	}
	if !strings.Contains(got, want) || strings.Contains(got, "CNI") {
		t.Errorf("got\n%s\nwant in it\n%s", got, want)
	}
	if !held["nat"].Ours() || !held["filter"].Ours() || (Saved{Chains: []string{"CNI"}}).Ours() {
		t.Error("Ours does not tell our chains from others")
	}
	clean := held["nat"].Clean("nat") + held["filter"].Clean("filter")
	for _, line := range []string{"-X MESHLESS_OLD", "-X MESHLESS_OUTPUT", "-X MESHLESS_PREROUTING", "-F MESHLESS_OUTPUT", "-X MESHLESS_GUARD", "-D OUTPUT -p tcp -j MESHLESS_GUARD", "*filter", "*nat", "-D OUTPUT -p tcp -j MESHLESS_OUTPUT"} {
		if !strings.Contains(clean, line+"\n") {
			t.Errorf("%q is missing in\n%s", line, clean)
		}
	}
}

func TestParseSavedRefuses(t *testing.T) {
	for _, text := range []string{"-A OUTPUT -j X", "*filter\n-A INPUT -j DROP", "*nat\n-I OUTPUT -j X", "*nat\n-A OUTPUT", "*nat\nhello", "*nat\nCOMMIT\n:X - [0:0]"} {
		if n, err := ParseSaved("nat", text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, n)
		}
	}
}

func TestParseIPTablesRefuses(t *testing.T) {
	for _, spec := range []string{
		"", "-j", "-j DROP", "-p tcp -j REJECT", "-p tcp -j REJECT --reject-with icmp-port-unreachable", "-j REJECT --reject-with tcp-reset", "-j REDIRECT", "-j REDIRECT --to-ports 0", "-p tcp -j REDIRECT --to-ports 1-2", "-j REDIRECT --to-ports 1", "-p udp -j RETURN", "-p tcp -j RETURN",
		"-s 10.0.0.1/8 -j RETURN", "-s 0.0.0.0/0 -j RETURN", "-s x -j RETURN", "-d 10.0.0.1/8 -j RETURN", "! -s 10.0.0.1 -j RETURN", "! -o lo -j RETURN", "-o lo+ -j RETURN", "-j RETURN -j RETURN",
		"-p tcp -m tcp --dport 0 -j RETURN", "-p tcp -m tcp --dport 1,2 -j RETURN", "-m owner --uid-owner 0 -j RETURN", "-m owner --gid-owner 1 -j RETURN",
		"-m owner ! --uid-owner 1 -j RETURN", "-m owner --socket-exists -j RETURN", "-m owner --socket-exists --uid-owner 1 -j RETURN", "-m owner ! --socket-exists ! --uid-owner 1 -j RETURN",
		"-m conntrack --ctdir REPLY -j RETURN", "-m conntrack --ctstate INVALID,NEW -j RETURN", "-m conntrack ! --ctstate INVALID -j RETURN", "-m conntrack --ctdir ORIGINAL --ctstate INVALID -j RETURN", "! -j RETURN", "-m comment --comment x -j RETURN", `-o "lo -j RETURN`, "-i lo -j RETURN", "-g RETURN", "!", "! -d ::/0 -j RETURN", "! -s 10.0.0.1/32 -d 10.0.0.2/32 -j RETURN", "-m -i net1 tcp -j RETURN", "-m socket -j RETURN", "-p tcp -m tcp --dport 080 -j RETURN", "\"-j RETURN\"", "-j RETURN -j DROP", "-p tcp -m tcp --dport 1 -m tcp --dport 2 -j RETURN",
	} {
		if r, err := ParseIPTables(spec); err == nil {
			t.Errorf("%q: got %s, want an error", spec, r.IPTables())
		}
	}
}

func TestSplit(t *testing.T) {
	for line, want := range map[string]string{
		`-m comment --comment "a \"b\" c" -j X`: `["-m" "comment" "--comment" "a \"b\" c" "-j" "X"]`,
		`--comment "the pod\'s"`:                `["--comment" "the pod's"]`,
		` a	"" b `:                              `["a" "" "b"]`,
	} {
		if words, err := split(line); err != nil || fmt.Sprintf("%q", words) != want {
			t.Errorf("%s: got %q, %v, want %s", line, words, err, want)
		}
	}
}

// FuzzParseIPTables: what is read, is written again as a text that reads the same, so that no two rules of a kernel
// read as one.
func FuzzParseIPTables(f *testing.F) {
	for _, family := range []Family{IPv4, IPv6} {
		for _, c := range full(f).Of(family).Chains {
			for _, r := range c.Rules {
				f.Add(r.IPTables())
			}
		}
	}
	f.Fuzz(func(t *testing.T, spec string) {
		r, err := ParseIPTables(spec)
		if err != nil {
			return
		}
		again, err := ParseIPTables(r.IPTables())
		if err != nil || again != r {
			t.Fatalf("%q reads as %+v, writes as %q, which reads as %+v (%v)", spec, r, r.IPTables(), again, err)
		}
	})
}

// TestEveryKindIsWritten: the table has each kind, iptables writes each once, and each reads as what was written.
func TestEveryKindIsWritten(t *testing.T) {
	if order := slices.Sorted(slices.Values(iptablesOrder)); len(order) != int(Kinds) || len(slices.Compact(order)) != int(Kinds) {
		t.Errorf("iptables writes the kinds %v", iptablesOrder)
	}
	seen := [Kinds]bool{}
	for _, c := range full(t).Chains {
		for _, r := range c.Rules {
			for k := range Kinds {
				seen[k] = seen[k] || k.In(r)
			}
		}
	}
	for k, f := range forms {
		if f.nft == nil || f.iptables == "" || f.get == nil || f.set == nil || !seen[k] {
			t.Errorf("kind %d is not whole, or no rule has it", k)
		}
	}
}

// everyRule calls f with each combination of conditions and verdicts, of each with several values.
func everyRule(f func(Rule)) {
	prefix := netip.MustParsePrefix
	fields := [][]func(*Rule){
		{func(r *Rule) {}, func(r *Rule) { r.UID = 1 }, func(r *Rule) { r.NotUID = 1<<32 - 1 }},
		{func(r *Rule) {}, func(r *Rule) { r.Tracked = Original }, func(r *Rule) { r.Tracked = Invalid }},
		{func(r *Rule) {}, func(r *Rule) { r.In = "net1" }},
		{func(r *Rule) {}, func(r *Rule) { r.Out = Loopback }, func(r *Rule) { r.Out = "lo1" }},
		{func(r *Rule) {}, func(r *Rule) { r.Source = prefix("198.18.0.0/15") }, func(r *Rule) { r.Source = prefix("fd00::/64") }},
		{func(r *Rule) {}, func(r *Rule) { r.Dest = prefix("10.3.128.0/17") }, func(r *Rule) { r.Dest = prefix("::1/128") },
			func(r *Rule) { r.NotDest = prefix("127.0.0.0/8") }, func(r *Rule) { r.NotDest = prefix("2001:db8::/33") }},
		{func(r *Rule) {}, func(r *Rule) { r.Ports = netset.PortRange{First: 1, Last: 1} }, func(r *Rule) { r.Ports = netset.PortRange{First: 1, Last: 65535} }},
		{func(r *Rule) {}, func(r *Rule) { r.Refuse = Drop }, func(r *Rule) { r.Refuse = Reset }, func(r *Rule) { r.RedirectTo = 65535 }},
	}
	var from func(int, Rule)
	from = func(i int, r Rule) {
		if i == len(fields) {
			f(r)
			return
		}
		for _, set := range fields[i] {
			with := r
			set(&with)
			from(i+1, with)
		}
	}
	from(0, Rule{})
}

// TestParseInvertsIPTables: every rule that is written is read again. Two rules that
// differ are written differently, for nft too.
func TestParseInvertsIPTables(t *testing.T) {
	written := map[string]bool{}
	n := 0
	everyRule(func(want Rule) {
		text := want.IPTables()
		got, err := ParseIPTables(text)
		if err != nil || got != want {
			t.Fatalf("%+v is written as %q and reads as %+v (%v)", want, text, got, err)
		}
		written[text], written[want.String()] = true, true
		n++
	})
	if len(written) != 2*n {
		t.Errorf("%d rules are written in %d ways", n, len(written)/2)
	}
}
