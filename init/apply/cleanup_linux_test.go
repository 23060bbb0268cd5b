package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
)

func tryRemove(t *testing.T, s system, ns netns.NsHandle) (string, error) {
	t.Helper()
	var out strings.Builder
	err := inside(t, ns, func() error { return s.remove(&out) })
	return out.String(), err
}

// holdsSource6 tells whether lo has the address that earlier releases gave it.
func holdsSource6(t *testing.T, ns netns.NsHandle) (there bool) {
	t.Helper()
	must(t, inside(t, ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(lo, netlink.FAMILY_V6)
		there = slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.String() == formerSource6 })
		return err
	}))
	return there
}

func removedTables(names ...string) (lines []string) {
	for _, name := range names {
		lines = append(lines, "removed table "+name+": our chains and the jumps to them")
	}
	return lines
}

// After a removal the namespace is as it was before: no rule, no address, and connections go where they go without a
// mesh. A second removal finds nothing.
func TestRemove(t *testing.T) { forEachBackend(t, testRemove) }

func testRemove(t *testing.T, b testBackend) {
	requirePrograms(t)
	f := families["IPv6"]
	l := b.lab(t, f, labArgs(t))
	l.out(f, appUID, "outbound").check(t)       // control
	must(t, inside(t, l.pod, addFormerSource6)) // as the init of an earlier release did
	if !holdsSource6(t, l.pod) || len(localRoutes(t, l.pod)) != 2 {
		t.Fatal("the control fails: lo has no ::6, or the pod has no local routes")
	}
	text, err := tryRemove(t, host, l.pod)
	must(t, err)
	want := map[string][]string{
		"nftables":        {"removed table inet meshless", "removed table inet meshless_apart"},
		"iptables-nft":    removedTables("filter of ip6tables-nft", "filter of iptables-nft", "nat of ip6tables-nft", "nat of iptables-nft"),
		"iptables-legacy": removedTables("filter of iptables-legacy", "nat of iptables-legacy", "filter of ip6tables-legacy", "nat of ip6tables-legacy"),
	}[b.name]
	want = append(want, "removed local route to 198.18.0.0/15", "removed local route to fd6d:6573:686c::/64")
	if want = append(want, "removed address ::6 from lo"); text != strings.Join(want, "\n")+"\n" {
		t.Errorf("printed\n%s\nwant\n%s", text, strings.Join(want, "\n"))
	}
	if held, routes := residue(t, l.pod), localRoutes(t, l.pod); held != nil || holdsSource6(t, l.pod) || routes != nil {
		t.Errorf("left are %q, ::6: %t, local routes to %v", held, holdsSource6(t, l.pod), routes)
	}
	l.out(f, appUID, "peer").check(t)
	if _, line, err := connect(t, l.peer, 0, "", hostPort(f.pod, appPort)); err != nil || !strings.HasPrefix(line, "app ") {
		t.Errorf("peer to the app: %q, %v", line, err)
	}
	if text, err := tryRemove(t, host, l.pod); err != nil || text != "nothing of meshless-init is here\n" {
		t.Errorf("a second removal printed %q, %v", text, err)
	}
	b.apply(t, l.pod, labArgs(t)) // and the mesh can be put back
	l.out(f, appUID, "outbound").check(t)
}

// What three runs with three back ends left goes at once, and what belongs to others stays, in nftables and in both
// iptables, an address of ::6 included that somebody else added.
func TestRemoveLeavesOthersAlone(t *testing.T) {
	requirePrograms(t)
	ns := newNetns(t)
	programs := []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"}
	for _, program := range programs {
		ipt(t, ns, program, "-t", "nat", "-N", "CNI-HOSTPORT")
		ipt(t, ns, program, "-t", "nat", "-A", "PREROUTING", "-j", "CNI-HOSTPORT")
		ipt(t, ns, program, "-t", "nat", "-A", "CNI-HOSTPORT", "-p", "tcp", "--dport", "99", "-j", "REDIRECT", "--to-ports", "98")
		ipt(t, ns, program, "-A", "INPUT", "-p", "udp", "--dport", "99", "-j", "DROP")
		ipt(t, ns, program, "-A", "OUTPUT", "-p", "tcp", "-m", "owner", "!", "--uid-owner", "77", "-m", "conntrack", "--ctstate", "NEW", "-m", "comment", "--comment", "theirs", "-j", "REJECT")
	}
	must(t, inside(t, ns, func() error {
		conn := &nftables.Conn{}
		conn.AddChain(&nftables.Chain{Table: conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "kube-proxy"}), Name: rules.Output})
		return errors.Join(conn.Flush(), addAddresses("lo", formerSource6+"/128"))
	}))
	all := func() string {
		var texts []string
		for _, program := range programs {
			texts = append(texts, saved(ipt(t, ns, program+"-save")))
		}
		return strings.Join(texts, "\n")
	}
	before := all()
	for _, b := range testBackends {
		want, err := rules.New(everything(t), true)
		must(t, err)
		must(t, inside(t, ns, func() error { // not by Apply, which takes out what an earlier back end wrote
			if b.variant == "" {
				_, err := writeNFTables(want, proxyUID)
				return err
			}
			_, err := host.writeVariant(b.variant, want, true)
			return err
		}))
	}
	if held := residue(t, ns); len(held) != 5 {
		t.Fatalf("the control fails: held are %q", held)
	}
	text, err := tryRemove(t, host, ns)
	if err != nil || strings.Count(text, "removed ") != 10 {
		t.Errorf("printed %q, %v", text, err)
	}
	if after := all(); after != before {
		t.Errorf("the tables of others were\n%s\nand are\n%s", before, after)
	}
	if held := residue(t, ns); held != nil || !holdsSource6(t, ns) {
		t.Errorf("left are %q, somebody else's ::6: %t", held, holdsSource6(t, ns))
	}
	must(t, inside(t, ns, func() error {
		chains, err := (&nftables.Conn{}).ListChainsOfTableFamily(nftables.TableFamilyINet)
		if err == nil && (len(chains) != 1 || chains[0].Table.Name != "kube-proxy") {
			err = fmt.Errorf("%d chains of family inet, want kube-proxy's", len(chains))
		}
		return err
	}))
}

// A removal that cannot see everything removes what it sees and says so: an answer of "nothing is here" must be true.
func TestRemoveSaysWhatItCannotSee(t *testing.T) {
	requirePrograms(t)
	for name, c := range map[string]struct {
		system  system
		prepare func() error
		want    string
	}{
		"no programs": {image(t, nil), func() error { return nil }, api.InitIPTablesImage},
		"no NET_RAW":  {host, dropNetRaw, "NET_RAW"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := newNetns(t)
			testBackends[2].apply(t, ns, everything(t))
			must(t, inside(t, ns, func() error { // beside the legacy rules, so that something can be removed
				want, err := rules.New(everything(t), true)
				if err == nil {
					_, err = writeNFTables(want, proxyUID)
				}
				return err
			}))
			var out strings.Builder
			err := inside(t, ns, func() error {
				if err := c.prepare(); err != nil {
					return err
				}
				return c.system.remove(&out)
			})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(out.String(), "removed table inet meshless") || strings.Contains(out.String(), "legacy") {
				t.Errorf("printed %q, %v; want what was removed, and an error that says %q", &out, err, c.want)
			}
		})
	}
	ns := newNetns(t)
	var out strings.Builder
	err := inside(t, ns, func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		return host.remove(&out)
	})
	if err == nil || !strings.Contains(err.Error(), "capability NET_ADMIN") || out.Len() > 0 {
		t.Errorf("without NET_ADMIN: printed %q, %v", &out, err)
	}
}

// Without nftables in the kernel there is nothing of nftables to remove, and the rest goes.
func TestRemoveWithoutNFTables(t *testing.T) {
	requirePrograms(t)
	ns := newNetns(t)
	testBackends[2].apply(t, ns, everything(t))
	var out strings.Builder
	must(t, withoutNFTables(t, ns, func() error { return host.remove(&out) }))
	if held := residue(t, ns); held != nil || strings.Count(out.String(), "removed ") != 6 {
		t.Errorf("left are %q, printed %q", held, &out)
	}
}
