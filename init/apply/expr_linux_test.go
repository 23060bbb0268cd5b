package apply

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// everything has a rule of each form.
func everything(t *testing.T) podplan.InitArgs {
	t.Helper()
	cidrs, err := netset.ParsePrefixes("10.1.0.0/16,192.0.2.7/32,0.0.0.0/0,10.3.128.0/17,fd00::/8,2001:db8::7/128,::/0,2001:db8::/33")
	if err != nil {
		t.Fatal(err)
	}
	return podplan.InitArgs{
		ProxyUID: 15000, ExcludeInboundPorts: netset.Ports{{First: 22, Last: 22}, {First: 9000, Last: 9010}},
		ExcludeOutboundPorts: netset.Ports{{First: 25, Last: 25}, {First: 1000, Last: 65535}}, ExcludeOutboundCIDRs: cidrs,
		ExcludeInboundInterfaces: netset.Interfaces{"docker0", "abcdefghijklmno"}, ExcludeOutboundInterfaces: netset.Interfaces{"net1", "lo1"},
		ExcludeOutboundUIDs: netset.UIDs{1001, 2147483647},
	}
}

// What is printed is decoded from what the kernel returned: two rules that differ must not decode to the same text.
func TestDecodeInvertsEncode(t *testing.T) {
	set, err := rules.New(everything(t), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range set.Chains {
		for _, want := range c.Rules {
			got, err := decode(encode(want))
			got.Why = want.Why
			if err != nil || got != want {
				t.Errorf("got %s (%v), want %s", got, err, want)
			}
		}
	}
}

// TestDecodeInvertsEncodeEverywhere does so for each combination of the conditions that package rules knows, and sees
// that each kind has a codec.
func TestDecodeInvertsEncodeEverywhere(t *testing.T) {
	for kind, c := range codecs {
		if c.encode == nil || c.set == nil {
			t.Fatalf("kind %d of package rules has no codec", kind)
		}
	}
	var seen [rules.Kinds]bool
	options := [][]string{
		{"", "-s 198.18.0.0/15 ", "-s fd00::/64 ", "-s ::6/128 "},
		{"", "-d 10.3.128.0/17 ", "-d ::1/128 ", "! -d 127.0.0.0/8 ", "! -d 2001:db8::/33 "},
		{"", "-i net1 "}, {"", "-o lo ", "-o lo1 "},
		{"", "-m owner --uid-owner 1 ", "-m owner --socket-exists ! --uid-owner 4294967295 "},
		{"", "-m conntrack --ctdir ORIGINAL ", "-m conntrack --ctstate INVALID "},
		{"-j RETURN", "-g MESHLESS_OUTBOUND", "-p tcp -m tcp --dport 1 -g MESHLESS_REFUSED", "-p tcp -j DROP", "-p tcp -j REJECT --reject-with tcp-reset", "-p tcp -j REDIRECT --to-ports 15001",
			"-p tcp -m tcp --dport 1 -j RETURN", "-p tcp -m tcp --dport 1 -j REDIRECT --to-ports 15001", "-p tcp -m tcp --dport 1:9 -j REDIRECT --to-ports 15001", "-p tcp -m tcp --dport 1:65535 -j DROP"},
	}
	var from func(int, string)
	from = func(i int, spec string) {
		if i < len(options) {
			for _, option := range options[i] {
				from(i+1, spec+option)
			}
			return
		}
		want, err := rules.ParseIPTables(spec)
		must(t, err)
		if got, err := decode(encode(want)); err != nil || got != want {
			t.Fatalf("%s: got %s (%v), want %s", spec, got, err, want)
		}
		for kind := range seen {
			seen[kind] = seen[kind] || rules.Kind(kind).In(want)
		}
	}
	from(0, "")
	if slices.Contains(seen[:], false) {
		t.Errorf("not every kind was tried: %v", seen)
	}
}

// FuzzDecode: a rule of iptables, whatever it is, reads back from the kernel's expressions as itself.
func FuzzDecode(f *testing.F) {
	f.Add("-s 198.18.0.0/15 -o lo -j RETURN")
	f.Add("! -d 127.0.0.0/8 -p tcp -m tcp --dport 9000:9010 -m owner --socket-exists ! --uid-owner 7 -j DROP")
	f.Fuzz(func(t *testing.T, spec string) {
		want, err := rules.ParseIPTables(spec)
		if err != nil {
			return
		}
		if got, err := decode(encode(want)); err != nil || got != want {
			t.Errorf("%s: got %s (%v)", spec, got, err)
		}
	})
}

func TestDecodeRefusesForeignExpressions(t *testing.T) {
	for _, exprs := range [][]expr.Any{
		{&expr.Counter{}},
		{&expr.Verdict{Kind: expr.VerdictAccept}},
		{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH}},
		{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, equal([]byte{1})},
		{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, equal(stateInvalid)},
		{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, equal(stateNone)},
		{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}}},
		{meta(expr.MetaKeyMARK), equal([]byte{1, 2, 3, 4})},
		{meta(expr.MetaKeyOIFNAME), equal([]byte("lo"))}, // the prefix lo, not the interface
		{meta(expr.MetaKeyIIFNAME), equal([]byte("net1"))},
		{meta(expr.MetaKeyIIFNAME), equal(interfaceName("lo"))},
		{meta(expr.MetaKeyOIFNAME), equal(interfaceName("net*"))},
		{meta(expr.MetaKeySKUID), equal([]byte{1})},
		{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 9, Len: 1}, equal([]byte{6})},
		{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: dest6, Len: 4}, equal([]byte{1, 2, 3, 4})},
		{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 1}, equal([]byte{6})},
		{&expr.Redir{RegisterProtoMin: 1}},
	} {
		if len(exprs) > 1 {
			exprs = append(exprs, &expr.Verdict{Kind: expr.VerdictReturn}) // or it would be refused for that alone
		}
		if r, err := decode(exprs); err == nil {
			t.Errorf("%s: got rule %s, want an error", describe(exprs), r)
		}
	}
}

// The kernel reads the mask and the addresses byte by byte; this pins them against nft --debug=netlink for
// 10.3.128.0/17.
func TestEncodeMask(t *testing.T) {
	exprs := encode(rules.Rule{Dest: netip.MustParsePrefix("10.3.128.0/17")})
	bitwise, ok := exprs[3].(*expr.Bitwise)
	if !ok || fmt.Sprint(bitwise.Mask) != "[255 255 128 0]" || fmt.Sprint(bitwise.Xor) != "[0 0 0 0]" {
		t.Errorf("got %s", describe(exprs))
	}
}

func TestErrorsGuessTheCause(t *testing.T) {
	for _, c := range []struct {
		err        error
		want, deny string
	}{
		{unix.EPERM, "capability NET_ADMIN", "modprobe"},
		{unix.EACCES, "capability NET_ADMIN", "modprobe"},
		{unix.ENOENT, "modprobe -a nf_tables nft_chain_nat nft_redir nft_ct nft_reject_inet\" on the node and list the five", "NET_ADMIN"},
		{unix.EOPNOTSUPP, "kernels before 5.2", "NET_ADMIN"},
		{unix.EINVAL, "modprobe", "NET_ADMIN"},
		{unix.EPROTONOSUPPORT, "modprobe", "NET_ADMIN"},
		{unix.ENOBUFS, "no buffer space", "modprobe"},
	} {
		got := explainNFTables("write", fmt.Errorf("conn.Receive: %w", c.err)).Error()
		if !strings.Contains(got, c.want) || strings.Contains(got, c.deny) {
			t.Errorf("%v: got %q, want %q in it and not %q", c.err, got, c.want, c.deny)
		}
	}
}

// The versions are those that gVisor shows, and those of kernels that are not gVisor's.
func TestInGVisor(t *testing.T) {
	for name, c := range map[string]struct {
		file, text string
		want       bool
	}{
		"4.4.0":      {"proc/version", "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n", true},
		"4.19.0":     {"proc/version", "Linux version 4.19.0-gvisor #1 SMP Sun Jan 10 15:06:54 PST 2016\n", true},
		"a later":    {"proc/version", "Linux version 6.1.0-gvisor #1 SMP\n", true},
		"marker":     {"proc/gvisor/kernel_is_gvisor", "", true},
		"Debian":     {"proc/version", "Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org) (gcc-12) #1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)\n", false},
		"a real 4.4": {"proc/version", "Linux version 4.4.0-210-generic (buildd@lgw01) #242-Ubuntu SMP Fri Apr 16 09:57:56 UTC 2021\n", false},
		"no proc":    {"etc/passwd", "", false},
	} {
		root := t.TempDir()
		file := filepath.Join(root, c.file)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte(c.text), 0o644))
		if got := inGVisor(root); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
