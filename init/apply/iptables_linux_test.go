package apply

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// ipt runs a program of iptables in the namespace and returns its output.
func ipt(t *testing.T, ns netns.NsHandle, args ...string) string {
	t.Helper()
	var out []byte
	must(t, inside(t, ns, func() (err error) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "XTABLES_LOCKFILE=/dev/null"}
		if out, err = cmd.Output(); err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
			}
		}
		return err
	}))
	return string(out)
}

func forEachVariant(t *testing.T, test func(*testing.T, testBackend)) {
	t.Helper()
	forEachBackend(t, func(t *testing.T, b testBackend) {
		if b.variant != "" {
			test(t, b)
		}
	})
}

// Applying twice holds what applying once does, another configuration leaves nothing of the first, and what others have
// in the tables stays, in its order and behind ours.
func TestIPTablesReplaces(t *testing.T) { forEachVariant(t, testIPTablesReplaces) }

func testIPTablesReplaces(t *testing.T, b testBackend) {
	ns := newNetns(t)
	program := rules.IPv4.Program("-" + string(b.variant))
	requirePrograms(t)
	foreign := [][]string{
		{"-t", "nat", "-N", "CNI-HOSTPORT"}, {"-t", "nat", "-A", "PREROUTING", "-j", "CNI-HOSTPORT"},
		{"-t", "nat", "-A", "CNI-HOSTPORT", "-p", "udp", "--dport", "53", "-j", "RETURN"}, {"-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP"}, {"-A", "OUTPUT", "-d", "192.0.2.2", "-j", "ACCEPT"},
	}
	for _, args := range foreign {
		ipt(t, ns, append([]string{program}, args...)...)
	}
	want, err := rules.New(everything(t), true)
	must(t, err)
	first := b.apply(t, ns, everything(t))
	for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
		if !strings.Contains(first, want.Of(f).IPTables(f)) {
			t.Errorf("printed\n%s\nwant in it\n%s", first, want.IPTables(f))
		}
	}
	held := func() string { return ipt(t, ns, program+"-save") }
	once := saved(held())
	if diff := cmp.Diff(first, b.apply(t, ns, everything(t))); diff != "" {
		t.Errorf("second run differs: %s", diff)
	}
	if diff := cmp.Diff(once, saved(held())); diff != "" {
		t.Errorf("the second run changed the tables: %s", diff)
	}
	b.apply(t, ns, podplan.InitArgs{ProxyUID: 2000})
	text := saved(held())
	if strings.Contains(text, "15000") || strings.Contains(text, "9000") || strings.Count(text, "-j MESHLESS_OUTPUT") != 1 || strings.Count(text, "-j MESHLESS_GUARD") != 1 {
		t.Errorf("the first configuration is still there in\n%s", text)
	}
	for _, line := range []string{"-A PREROUTING -j CNI-HOSTPORT", "-A CNI-HOSTPORT -p udp -m udp --dport 53 -j RETURN", "-A INPUT -s 192.0.2.1/32 -j DROP", "-A OUTPUT -d 192.0.2.2/32 -j ACCEPT"} {
		if !strings.Contains(text, line) {
			t.Errorf("the foreign rule %q is gone from\n%s", line, text)
		}
	}
	if ours, theirs := strings.Index(text, "-j MESHLESS_PREROUTING"), strings.Index(text, "-j CNI-HOSTPORT"); ours > theirs {
		t.Errorf("a foreign rule comes before ours in\n%s", text)
	}
	if ours, theirs := strings.Index(text, "-j MESHLESS_GUARD"), strings.Index(text, "-A OUTPUT -d 192.0.2.2/32"); ours > theirs {
		t.Errorf("a foreign rule comes before the egress filter in\n%s", text)
	}
}

// saved is the text of iptables-save without its comments, which hold the time, and without counters.
func saved(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line, _, _ = strings.Cut(line, " ["); !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}

// What is printed, iptables-restore reads and iptables-save prints: an operator can compare the log with a node.
func TestPrintedIsWhatIPTablesReads(t *testing.T) { forEachVariant(t, testPrintedIsRead) }

func testPrintedIsRead(t *testing.T, b testBackend) {
	text := b.apply(t, newNetns(t), everything(t))
	blocks := strings.Split(text, "tables-"+string(b.variant)+"\n")[1:]
	if len(blocks) != 2 {
		t.Fatalf("got %d families in\n%s", len(blocks), text)
	}
	for i, f := range []rules.Family{rules.IPv4, rules.IPv6} {
		block := blocks[i][:strings.LastIndex(blocks[i], "COMMIT\n")] + "COMMIT\n"
		ns := newNetns(t)
		must(t, inside(t, ns, func() error {
			_, err := host.run(b.variant, f, "restore", block, "--noflush")
			return err
		}))
		held := ipt(t, ns, f.Program("-"+string(b.variant)+"-save"))
		for line := range strings.Lines(block) {
			if rule := strings.TrimSpace(line); strings.HasPrefix(rule, "-A") && !strings.Contains(held, rule+"\n") {
				t.Errorf("iptables-save does not print %q", rule)
			}
		}
	}
}

// Rules by the hundred must not take longer than a container may.
func TestIPTablesManyRules(t *testing.T) { forEachVariant(t, testIPTablesManyRules) }

func testIPTablesManyRules(t *testing.T, b testBackend) {
	args := podplan.InitArgs{ProxyUID: proxyUID}
	for p := uint16(2); p <= 1000; p += 2 {
		args.ExcludeInboundPorts = append(args.ExcludeInboundPorts, netset.PortRange{First: p, Last: p})
	}
	ns := newNetns(t)
	b.apply(t, ns, args)
	if n := strings.Count(b.apply(t, ns, args), "--dport 1000 "); n != 4 {
		t.Errorf("the last port has %d rules, want 4", n)
	}
}

// While the rules are replaced again and again, with other ones each time, no connection finds a moment without them.
func TestReplacementHasNoWindow(t *testing.T) { forEachBackend(t, testNoWindow) }

func testNoWindow(t *testing.T, b testBackend) {
	f := families["IPv4"]
	l := b.lab(t, f, labArgs(t))
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		defer close(done)
		for i := range 15 {
			args := labArgs(t)
			args.ExcludeInboundPorts = netset.PortsOf(excludedIn, uint16(3000+i))
			b.apply(t, l.pod, args)
		}
	})
	connections := 0
	for replacing := true; replacing; connections++ {
		select {
		case <-done:
			replacing = false
		default:
		}
		l.out(f, appUID, "outbound").check(t)
		l.in(f).check(t)
		if t.Failed() {
			break
		}
	}
	all.Wait()
	t.Logf("%d pairs of connections", connections)
}

// Another back end takes over in a pod that an earlier run prepared: its rules alone remain, and they decide.
func TestSwitchingBackends(t *testing.T) {
	requirePrograms(t)
	everywhere := image(t, []variant{variantNFT, variantLegacy}, rules.IPv4, rules.IPv6)
	want := map[string][]string{
		"nftables": {"nftables"}, "iptables-nft": {"iptables-nft", "ip6tables-nft"}, "iptables-legacy": {"iptables-legacy", "ip6tables-legacy"},
	}
	for _, from := range testBackends {
		for _, to := range testBackends {
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				l := newLab(t)
				f := families["IPv4"]
				populate(t, l, f)
				from.apply(t, l.pod, labArgs(t)) // excludes ports that the second run does not
				after := podplan.InitArgs{ProxyUID: proxyUID, Backend: to.backend}
				s := everywhere
				if to.variant == variantLegacy {
					// or iptables-nft would be taken; it has no program that could clean up after iptables-nft
					s = to.system(t)
				}
				_, err := tryOn(t, s, l.pod, after)
				must(t, err)
				if diff := cmp.Diff(want[to.name], residue(t, l.pod)); diff != "" {
					t.Errorf("-want +held:\n%s", diff)
				}
				step{ns: l.pod, uid: appUID, host: f.foreign, port: excludedOut, answers: "outbound"}.check(t)
				step{ns: l.peer, host: f.pod, port: excludedIn, answers: "inbound"}.check(t)
				l.out(f, proxyUID, "peer").check(t)
			})
		}
	}
}

// The image without programs cleans up after iptables-nft too, and leaves what is not ours in the same table.
func TestNFTablesRemovesIPTablesNFT(t *testing.T) {
	requirePrograms(t)
	ns := newNetns(t)
	ipt(t, ns, "iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-m", "owner", "--uid-owner", "77", "-m", "multiport", "--dports", "1,2", "-j", "REDIRECT", "--to-ports", "9")
	testBackends[1].apply(t, ns, everything(t))
	testBackends[0].apply(t, ns, everything(t))
	text := saved(ipt(t, ns, "iptables-nft-save", "-t", "nat"))
	if strings.Contains(text, "MESHLESS") || !strings.Contains(text, "--uid-owner 77") {
		t.Errorf("held is\n%s", text)
	}
}

func TestAutoWithoutNFTables(t *testing.T) {
	requirePrograms(t)
	both := []variant{variantNFT, variantLegacy}
	full := image(t, both, rules.IPv4, rules.IPv6)
	for name, c := range map[string]struct {
		system  system
		backend podplan.Backend
		want    string // begins the output, or is in the error
		fails   bool
	}{
		"auto":              {full, podplan.BackendAuto, "nftables over netlink failed (protocol not supported)", false},
		"iptables":          {full, podplan.BackendIPTables, "as --backend=IPTables says", false},
		"nftables":          {full, podplan.BackendNFTables, "modprobe -a nf_tables", true},
		"no programs":       {image(t, nil), podplan.BackendAuto, api.InitIPTablesImage, true},
		"iptables without":  {image(t, nil), podplan.BackendIPTables, api.InitIPTablesImage, true},
		"nft programs only": {image(t, both[:1], rules.IPv4, rules.IPv6), podplan.BackendAuto, "iptables-nft-", true},
		"no ip6tables":      {image(t, both, rules.IPv4), podplan.BackendAuto, "ip6tables-legacy-restore is not in the image", true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			var out strings.Builder
			err := withoutNFTables(t, l.pod, func() error {
				return c.system.apply(podplan.InitArgs{ProxyUID: proxyUID, Backend: c.backend}, &out)
			})
			if c.fails {
				if err == nil || !strings.Contains(err.Error(), c.want) || out.Len() > 0 {
					t.Errorf("got %q and error %v, want an error that says %q", &out, err, c.want)
				}
				return
			}
			must(t, err)
			if first, _, _ := strings.Cut(out.String(), "\n"); !strings.Contains(first, c.want) || !strings.Contains(first, "iptables-legacy") {
				t.Errorf("the first line is %q, want %q and iptables-legacy in it", first, c.want)
			}
			f := families["IPv6"]
			populate(t, l, f)
			l.out(f, appUID, "outbound").check(t)
			l.in(f).check(t)
		})
	}
}

// Auto does not hide a refusal behind another back end.
func TestAutoKeepsRefusals(t *testing.T) {
	requirePrograms(t)
	for _, v := range []variant{variantNFT, variantLegacy} {
		for _, backend := range []podplan.Backend{podplan.BackendAuto, podplan.BackendIPTables} {
			ns := newNetns(t)
			ipt(t, ns, "iptables-"+string(v), "-t", "nat", "-N", "ISTIO_OUTPUT")
			text, err := tryOn(t, host, ns, podplan.InitArgs{ProxyUID: proxyUID, Backend: backend})
			if err == nil || !strings.Contains(err.Error(), "Istio") || text != "" {
				t.Errorf("iptables-%s, %s: got %q and error %v, want a refusal that names Istio", v, backend, text, err)
			}
			if held := residue(t, ns); held != nil {
				t.Errorf("iptables-%s, %s: %q was written", v, backend, held)
			}
		}
	}
}

// With IPv6 disabled, programs for IPv4 alone are enough, and the log says so.
func TestIPTablesWithoutIP6Tables(t *testing.T) { forEachVariant(t, testWithoutIP6Tables) }

func testWithoutIP6Tables(t *testing.T, b testBackend) {
	s := image(t, []variant{b.variant}, rules.IPv4)
	args := podplan.InitArgs{ProxyUID: proxyUID, Backend: podplan.BackendIPTables}
	off := newNetns(t)
	setSysctl(t, off, "net/ipv6/conf/all/disable_ipv6", "1")
	text, err := tryOn(t, s, off, args)
	if err != nil || !strings.Contains(text, "# no rules for IPv6: ip6tables-") {
		t.Errorf("without IPv6: got %q, %v", text, err)
	}
	if text, err = tryOn(t, s, newNetns(t), args); err == nil || text != "" {
		t.Errorf("with IPv6: got %q, want an error", text)
	}
}

// The legacy programs need a raw socket, iptables-nft does not; the error says which capability is missing, since the
// program's own does not.
func TestLegacyNeedsNetRaw(t *testing.T) {
	for _, b := range testBackends {
		var out strings.Builder
		s := b.system(t)
		err := inside(t, newNetns(t), func() error {
			if err := dropNetRaw(); err != nil {
				return err
			}
			return s.apply(podplan.InitArgs{ProxyUID: proxyUID, Backend: b.backend}, &out)
		})
		if b.variant != variantLegacy {
			must(t, err)
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "needs the capability NET_RAW") || out.Len() > 0 {
			t.Errorf("got %q and error %v, want one that names NET_RAW", &out, err)
		}
	}
}

// With the two capabilities that the manifest gives, and no other, the legacy programs write both tables.
func TestLegacyNeedsNoMore(t *testing.T) {
	var out strings.Builder
	s := testBackends[2].system(t)
	must(t, inside(t, newNetns(t), func() error {
		const keep = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if keep&(1<<c) == 0 {
				if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
					return err
				}
			}
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := [2]unix.CapUserData{{Effective: keep, Permitted: keep}}
		if err := unix.Capset(&header, &data[0]); err != nil {
			return err
		}
		return s.apply(podplan.InitArgs{ProxyUID: proxyUID, Backend: podplan.BackendIPTables}, &out)
	}))
	if n := strings.Count(out.String(), "-I OUTPUT -p tcp -j MESHLESS_GUARD\n"); n != 2 {
		t.Errorf("the egress filter is printed %d times, want for both families:\n%s", n, &out)
	}
}

// dropNetRaw takes NET_RAW from the calling thread and from what it starts.
func dropNetRaw() error {
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_RAW, 0, 0, 0); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	for _, set := range []*uint32{&data[0].Effective, &data[0].Permitted, &data[0].Inheritable} {
		*set &^= 1 << unix.CAP_NET_RAW
	}
	return unix.Capset(&header, &data[0])
}
