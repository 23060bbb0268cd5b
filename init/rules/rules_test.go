package rules

import (
	"flag"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

var update = flag.Bool("update", false, "write the goldens anew")

// A golden's first line is the command line, with "ipv4-only: " before it where the pod has no IPv6: "# [ipv4-only:
// ]--flag=value ...".
func readGolden(t *testing.T, path string) (args podplan.InitArgs, ipv6 bool, header, want string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	header, want, ok := strings.Cut(string(data), "\n")
	line, isComment := strings.CutPrefix(header, "# ")
	if !ok || !isComment {
		t.Fatalf("first line %q is not a command line", header)
	}
	line, only4 := strings.CutPrefix(line, "ipv4-only: ")
	args, err = podplan.ParseInitArgs(strings.Fields(line), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return args, !only4, header, want
}

func TestGoldens(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Fatal("no golden found")
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			args, ipv6, header, want := readGolden(t, path)
			set, err := New(args, ipv6)
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, path, header+"\n", want, set.String())
			for _, f := range []Family{IPv4, IPv6} {
				of := strings.TrimSuffix(path, ".golden") + "." + f.Program("")
				data, err := os.ReadFile(of)
				if err != nil && !*update {
					t.Fatal(err)
				}
				checkGolden(t, of, "", string(data), set.IPTables(f))
			}
			for _, c := range set.Chains[:3] {
				checkChain(t, c)
			}
			checkEgressFilter(t, set.Chains[1], set.Chains[3], uint32(args.ProxyUID))
			checkCanaries(t, set, args, ipv6)
		})
	}
}

// The documentation shows the rules as they are.
func TestDocsShowTheRules(t *testing.T) {
	_, _, _, want := readGolden(t, "testdata/default.golden")
	docs, err := os.ReadFile("../../docs/init.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(docs), "```\n"+want+"```\n") || !strings.Contains(string(docs), "```\n"+ZoneText(api.DefaultUID)+"```\n") {
		t.Errorf("docs/init.md does not show\n%s", want)
	}
}

func checkGolden(t *testing.T, path, header, want, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(header+got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got (go test ./init/rules -update writes it):\n%s", diff)
	}
}

// checkChain checks what must hold for every configuration, so that a golden written anew cannot hide a bypass.
func checkChain(t *testing.T, c Chain) {
	t.Helper()
	for i, r := range c.Rules {
		if len(r.Why) == 0 || len(r.Why) > MaxWhy || strings.ContainsAny(r.Why, "\"\n") {
			t.Errorf("%s rule %d: comment %q is none that nft takes", c.Name, i, r.Why)
		}
		if r.In == "" && r.Out == "" && !r.Dest.IsValid() && !r.NotDest.IsValid() && r.UID == 0 && r.Ports.First == 0 && r.RedirectTo == 0 && r.Goto == "" {
			t.Errorf("%s rule %d returns everything: %s", c.Name, i, r)
		}
	}
	last := c.Rules[len(c.Rules)-1]
	want := map[string]Rule{Prerouting: {RedirectTo: api.InboundPort}, Output: {Goto: Outbound}, Outbound: {RedirectTo: api.OutboundPort}}[c.Name]
	if want.Why = last.Why; last != want {
		t.Errorf("%s: the last rule is no unconditional redirect: %s", c.Name, last)
	}
}

// checkEgressFilter checks that the egress filter refuses all that the chain output redirects, and what it lets pass
// is, rule for rule, what output leaves alone.
func checkEgressFilter(t *testing.T, output, filter Chain, proxy uint32) {
	t.Helper()
	after := func(c Chain) int {
		return 1 + slices.IndexFunc(c.Rules, func(r Rule) bool { r.Why = ""; return r == Rule{UID: proxy} })
	}
	left, passed := output.Rules[after(output):len(output.Rules)-1], filter.Rules[after(filter):len(filter.Rules)-2]
	// what it refuses of client addresses stands before all that passes
	for len(passed) > 0 && passed[0].Refuse != 0 {
		if r := passed[0]; r.NotUID != proxy || r.Tracked != Original || r.Refuse != Reset || r.Source.IsValid() == r.Dest.IsValid() {
			t.Errorf("the egress filter refuses %s before what passes", r)
		}
		passed = passed[1:]
	}
	if !slices.Equal(left, passed) || after(output) == 0 || after(filter) == 0 {
		t.Errorf("output leaves alone %v, and the egress filter lets pass %v", left, passed)
	}
	for i, want := range []Rule{{NotUID: proxy, Tracked: Original, Goto: Refused}, {NotUID: proxy, Tracked: Invalid, Refuse: Drop}} {
		got := filter.Rules[len(filter.Rules)-2+i]
		if got.Why = ""; got != want {
			t.Errorf("the egress filter ends with %s, want %s", got, want)
		}
	}
	for i, r := range filter.Rules {
		if len(r.Why) == 0 || len(r.Why) > MaxWhy || strings.ContainsAny(r.Why, "\"\n") {
			t.Errorf("egress filter rule %d: comment %q is none that nft takes", i, r.Why)
		}
		if i < after(filter)-1 && r.Why != canaryWhy && (r.UID != proxy || r.Refuse != Reset || !r.Dest.IsValid() || r.Ports.First != api.OutboundPort) {
			t.Errorf("egress filter rule %d stands before the proxy's: %s", i, r)
		}
	}
	for i, c := range (Ruleset{Chains: []Chain{output, filter}}).Dropping().Chains {
		for j, r := range c.Rules {
			if was := []Chain{output, filter}[i].Rules[j]; r.Refuse == Reset || (r.Refuse == 0) != (was.Refuse == 0) {
				t.Errorf("%s rule %d without resets is %s, was %s", c.Name, j, r, was)
			}
		}
	}
}

// checkCanaries checks that the canaries of each family stand first, lead to the last rules, and are the proxy's alone.
func checkCanaries(t *testing.T, set Ruleset, args podplan.InitArgs, ipv6 bool) {
	t.Helper()
	want := 1
	if ipv6 {
		want = 2
	}
	for at, of := range map[int]int{1: 1, 3: 2} { // rules for each family, by chain
		leads := map[string]string{Output: Outbound, EgressFilter: Refused}[set.Chains[at].Name]
		for i, r := range set.Chains[at].Rules {
			is := r.Why == canaryWhy
			if is != (i < want*of) || is && (r.UID != uint32(args.ProxyUID) || !r.Dest.IsSingleIP() && !r.Source.IsSingleIP() || r.Goto != leads && r.Goto != "") {
				t.Errorf("%s rule %d: %s", set.Chains[at].Name, i, r)
			}
		}
	}
	if got := set.Chains[4]; got.Name != Refused || len(got.Rules) != 1 || got.Rules[0].Refuse != Reset {
		t.Errorf("what is refused ends at %v", got)
	}
}

func TestNewRefuses(t *testing.T) {
	good := podplan.InitArgs{ProxyUID: 15000}
	for name, change := range map[string]func(*podplan.InitArgs){
		"--proxy-uid: 0":  func(a *podplan.InitArgs) { a.ProxyUID = 0 }, // would be "any user" in a Rule
		"--proxy-uid: -1": func(a *podplan.InitArgs) { a.ProxyUID = -1 },
		// would be "any user" as well
		"0 is root":                 func(a *podplan.InitArgs) { a.ExcludeOutboundUIDs = netset.UIDs{0} },
		"15000 is the proxy's user": func(a *podplan.InitArgs) { a.ExcludeOutboundUIDs = netset.UIDs{15000} },
		"eth0 joins the pod":        func(a *podplan.InitArgs) { a.ExcludeOutboundInterfaces = netset.Interfaces{"eth0"} },
		`"net*" is not the name`:    func(a *podplan.InitArgs) { a.ExcludeInboundInterfaces = netset.Interfaces{"net*"} },
		// would be "any interface"
		`"" is not the name`: func(a *podplan.InitArgs) { a.ExcludeInboundInterfaces = netset.Interfaces{""} },
		"ports 9-8":          func(a *podplan.InitArgs) { a.ExcludeInboundPorts = netset.Ports{{First: 9, Last: 8}} },
		// would be "any port"
		"ports 0-8":      func(a *podplan.InitArgs) { a.ExcludeOutboundPorts = netset.Ports{{First: 0, Last: 8}} },
		"invalid Prefix": func(a *podplan.InitArgs) { a.ExcludeOutboundCIDRs = []netip.Prefix{{}} },
		"10.0.0.1/8": func(a *podplan.InitArgs) {
			a.ExcludeOutboundCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}
		},
		"as an IPv4 network": func(a *podplan.InitArgs) {
			a.ExcludeOutboundCIDRs = []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104)}
		},
	} {
		args := good
		change(&args)
		set, err := New(args, true)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got error %v, want one that says %q", err, name)
		}
		if set.Chains != nil {
			t.Errorf("%s: got rules beside the error", name)
		}
	}
	if _, err := New(good, true); err != nil {
		t.Fatal(err)
	}
}
