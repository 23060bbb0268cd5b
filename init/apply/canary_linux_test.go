package apply

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/redirect"
)

// checkedPod is a network namespace as a container runtime hands it over, with a proxy's canaries in it.
type checkedPod struct {
	t       *testing.T
	ns      netns.NsHandle
	process *os.Process
	output  *bufio.Scanner
}

// startChecks starts the canaries of a proxy in the namespace. They end with the test.
func startChecks(t *testing.T, ns netns.NsHandle, ranges clientaddr.Ranges) *checkedPod {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), canaryVariable+"="+ranges.String())
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, inside(t, ns, cmd.Start)) // a program is in the namespace of the thread that starts it
	p := &checkedPod{t, ns, cmd.Process, bufio.NewScanner(stdout)}
	t.Cleanup(func() {
		stdin.Close()
		for p.output.Scan() { // what it still says, so that it can end
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *checkedPod) run(script string) {
	p.t.Helper()
	must(p.t, inside(p.t, p.ns, func() error {
		out, err := exec.Command("sh", "-ec", script).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", script, err, out)
		}
		return nil
	}))
}

// wait reads verdicts until one is as wanted, and returns why the rules are not proved then.
func (p *checkedPod) wait(result redirect.Result, missing ...redirect.Chain) string {
	p.t.Helper()
	want, last := fmt.Sprintf("%s %q ", result, missing), ""
	for range 300 { // a bound for a test that fails: each is a check
		if !p.output.Scan() {
			break
		}
		last = p.output.Text()
		if why, ok := strings.CutPrefix(last, want); ok {
			return why
		}
	}
	p.t.Fatalf("no verdict %q; the last one is %q", want, last)
	return ""
}

func (p *checkedPod) passes() {
	p.t.Helper()
	if why := p.wait(redirect.Passed); why != "" {
		p.t.Fatalf("a check passed, and the rules are not proved: %s", why)
	}
}

func (p *checkedPod) fails(chains ...redirect.Chain) {
	p.t.Helper()
	why := p.wait(redirect.Failed, chains...)
	for _, says := range append([]string{"the rules of meshless-init are not in force", "of the same release"}, names(chains)...) {
		if !strings.Contains(why, says) {
			p.t.Errorf("it says %q, which lacks %q", why, says)
		}
	}
}

func names(chains []redirect.Chain) (names []string) {
	for _, c := range chains {
		names = append(names, string(c))
	}
	return names
}

// harm is what somebody does to the rules of a running pod, and the chains that are then found missing. In scripts for
// iptables, -V stands for the variant.
type harm struct {
	script string
	chains []redirect.Chain
}

var (
	inOutput = []redirect.Chain{redirect.Output}
	inFilter = []redirect.Chain{redirect.EgressFilter}
	inBoth   = []redirect.Chain{redirect.Output, redirect.EgressFilter}
)

const otherMesh = `add table ip istio
add chain ip istio output { type nat hook output priority -101; }
add rule ip istio output meta l4proto tcp redirect to :`

var nftHarms = map[string]harm{
	"everything is flushed":            {"nft flush ruleset", inBoth},
	"the table is deleted":             {"nft delete table inet meshless", inBoth},
	"the table is emptied":             {"nft flush table inet meshless", inBoth},
	"the table is dormant":             {"nft 'add table inet meshless { flags dormant; }'", inBoth},
	"output is emptied":                {"nft flush chain inet meshless output", inOutput},
	"the last rule is gone":            {"nft flush chain inet meshless outbound", inOutput},
	"the egress filter is emptied":     {"nft flush chain inet meshless guard", inFilter},
	"what refuses is emptied":          {"nft flush chain inet meshless refused", inFilter},
	"a rule in front":                  {"nft insert rule inet meshless output return", inOutput},
	"a rule in front, of IPv6":         {"nft insert rule inet meshless output meta nfproto ipv6 return", inOutput},
	"a rule in front, in the filter":   {"nft insert rule inet meshless guard accept", inFilter},
	"another chain redirects first":    {"nft '" + otherMesh + "15123'", inOutput},
	"another chain, somebody listens":  {"nft '" + otherMesh + listened + "'", inOutput},
	"local routes are gone":            {"ip route flush table local proto 150", inBoth},
	"only what redirects IPv4 is gone": {"nft insert rule inet meshless output meta nfproto ipv4 return", inOutput},
}

var iptablesHarms = map[string]harm{
	"everything is flushed":          {"for p in iptables ip6tables; do $p-V -t nat -F; $p-V -F; done", inBoth},
	"nat is flushed":                 {"iptables-V -t nat -F", inOutput},
	"nat of IPv6 is flushed":         {"ip6tables-V -t nat -F", inOutput},
	"nat is restored without us":     {`printf '*nat\n:OUTPUT ACCEPT\n:PREROUTING ACCEPT\nCOMMIT\n' | iptables-V-restore`, inOutput},
	"the jump is gone":               {"iptables-V -t nat -D OUTPUT -p tcp -j MESHLESS_OUTPUT", inOutput},
	"output is emptied":              {"iptables-V -t nat -F MESHLESS_OUTPUT", inOutput},
	"the last rule is gone":          {"iptables-V -t nat -F MESHLESS_OUTBOUND", inOutput},
	"a rule in front":                {"iptables-V -t nat -I OUTPUT -j ACCEPT", inOutput},
	"a rule in front, of IPv6":       {"ip6tables-V -t nat -I OUTPUT -j ACCEPT", inOutput},
	"another redirect in front":      {"iptables-V -t nat -I OUTPUT -p tcp -j REDIRECT --to-ports 15123", inOutput},
	"the filter is flushed":          {"iptables-V -F OUTPUT", inFilter},
	"the egress filter is emptied":   {"iptables-V -F MESHLESS_GUARD", inFilter},
	"the egress filter of IPv6":      {"ip6tables-V -F MESHLESS_GUARD", inFilter},
	"what refuses is emptied":        {"iptables-V -F MESHLESS_REFUSED", inFilter},
	"a rule in front, in the filter": {"iptables-V -I OUTPUT -j ACCEPT", inFilter},
}

// TestRulesLost: whatever is done to the rules of a running pod, the proxy's canaries see it and say which chain. Rules
// that init writes again are seen as well.
func TestRulesLost(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b testBackend) {
		harms := nftHarms
		if b.variant != "" {
			requirePrograms(t)
			harms = iptablesHarms
		}
		for name, h := range harms {
			t.Run(name, func(t *testing.T) {
				ns := newNetns(t)
				args := podplan.InitArgs{ProxyUID: proxyUID}
				b.apply(t, ns, args)
				p := startChecks(t, ns, clientaddr.Default)
				p.passes()
				p.run(strings.ReplaceAll(h.script, "-V", "-"+string(b.variant)))
				p.fails(h.chains...)
				p.run("nft delete table ip istio 2>/dev/null || true; for p in iptables ip6tables; do for v in nft legacy; do $p-$v -t nat -F OUTPUT; $p-$v -F OUTPUT; done; done 2>/dev/null || true")
				b.apply(t, ns, args)
				p.passes()
			})
		}
	})
}

// TestRulesNeverWritten: an init that made the client addresses and died, or one of another release, leaves a pod whose
// proxy is not ready from its first check on.
func TestRulesNeverWritten(t *testing.T) {
	ns := newNetns(t)
	must(t, inside(t, ns, func() error { return addClients(clientaddr.Default, true) }))
	startChecks(t, ns, clientaddr.Default).fails(inBoth...)
}

// TestCanariesPass: whatever a pod leaves out, and whatever its kernel lacks, canaries pass.
func TestCanariesPass(t *testing.T) {
	all := netset.Ports{{First: 1, Last: 65535}}
	everywhere, err := netset.ParsePrefixes("0.0.0.0/0,::/0")
	must(t, err)
	forEachBackend(t, func(t *testing.T, b testBackend) {
		if b.variant != "" {
			requirePrograms(t)
		}
		for name, args := range map[string]podplan.InitArgs{
			"all ports":    {ExcludeInboundPorts: all, ExcludeOutboundPorts: all},
			"all networks": {ExcludeOutboundCIDRs: everywhere, ExcludeInboundInterfaces: netset.Interfaces{"net1"}},
			"other ranges": {ClientCIDRs: clientaddr.Ranges{V4: (clientaddr.Ranges{}).Candidates()[1], V6: clientaddr.Default.V6}},
		} {
			t.Run(name, func(t *testing.T) {
				ns := newNetns(t)
				args.ProxyUID = proxyUID
				b.apply(t, ns, args)
				startChecks(t, ns, args.ClientCIDRs.WithDefaults()).passes()
			})
		}
	})
	t.Run("the kernel cannot reject", func(t *testing.T) {
		ns := newNetns(t)
		must(t, inside(t, ns, func() error {
			set, err := rules.New(podplan.InitArgs{ProxyUID: proxyUID}, true)
			if err != nil {
				return err
			}
			if err := addClients(clientaddr.Default, true); err != nil {
				return err
			}
			_, err = writeNFTables(set.Dropping(), proxyUID)
			return err
		}))
		p := startChecks(t, ns, clientaddr.Default)
		p.passes()
		p.run("nft flush chain inet meshless refused")
		p.fails(inFilter...)
	})
	t.Run("no IPv6", func(t *testing.T) {
		ns := newNetns(t)
		setSysctl(t, ns, "net/ipv6/conf/all/disable_ipv6", "1")
		apply(t, ns, podplan.InitArgs{ProxyUID: proxyUID})
		p := startChecks(t, ns, clientaddr.Ranges{V4: clientaddr.Default.V4})
		p.passes()
		p.run("nft flush ruleset")
		p.fails(inBoth...)
	})
}

// TestCanariesOfARerun: init that runs again in a running pod is no gap to the canaries.
func TestCanariesOfARerun(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b testBackend) {
		ns := newNetns(t)
		args := podplan.InitArgs{ProxyUID: proxyUID}
		b.apply(t, ns, args)
		p := startChecks(t, ns, clientaddr.Default)
		p.passes()
		for range 5 {
			b.apply(t, ns, args)
		}
		for range 20 {
			if !p.output.Scan() || !strings.HasPrefix(p.output.Text(), string(redirect.Passed)) {
				t.Fatalf("a check beside another run of init: %s", p.output.Text())
			}
		}
	})
}

// TestCheckCannotBeMade: a proxy without descriptors does not know, and what it knew stays. It says so.
func TestCheckCannotBeMade(t *testing.T) {
	ns := newNetns(t)
	apply(t, ns, podplan.InitArgs{ProxyUID: proxyUID})
	p := startChecks(t, ns, clientaddr.Default)
	p.passes()
	must(t, p.process.Signal(syscall.SIGUSR1)) // no descriptor is left
	if why := p.wait(redirect.Unknown); why != "" {
		t.Errorf("a check that could not be made took the proof away: %s", why)
	}
	must(t, p.process.Signal(syscall.SIGUSR2))
	p.passes()
	p.run("nft flush ruleset")
	p.fails(inBoth...)
}

// TestAppCannotFeignRules: a connection of the app from or to a canary address proves nothing and gets nowhere.
func TestAppCannotFeignRules(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b testBackend) {
		ns := newNetns(t)
		b.apply(t, ns, podplan.InitArgs{ProxyUID: proxyUID})
		startChecks(t, ns, clientaddr.Default).passes()
		for _, canary := range []string{clientaddr.Canary(clientaddr.Default.V4).String(), clientaddr.Canary(clientaddr.Default.V6).String()} {
			for _, from := range []string{"", canary} {
				if _, line, err := connect(t, ns, appUID, from, hostPort(canary, 15001)); err == nil {
					t.Errorf("the app reaches %s from %q: %q", canary, from, line)
				}
			}
		}
	})
}
