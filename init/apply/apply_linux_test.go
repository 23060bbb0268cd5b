package apply

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/test/program"
)

// apply runs Apply in the namespace and returns what it printed.
func apply(t *testing.T, ns netns.NsHandle, args podplan.InitArgs) string {
	t.Helper()
	text, err := tryApply(t, ns, args)
	must(t, err)
	return text
}

func tryApply(t *testing.T, ns netns.NsHandle, args podplan.InitArgs) (string, error) {
	t.Helper()
	var out strings.Builder
	err := inside(t, ns, func() error { return Apply(args, &out) })
	return out.String(), err
}

// Applying twice holds what applying once does: nothing is added, and another configuration leaves nothing of the
// first.
func TestApplyReplaces(t *testing.T) {
	ns := newNetns(t)
	want, err := rules.New(everything(t), true)
	must(t, err)
	zone := rules.ZoneText(uint32(everything(t).ProxyUID))
	first := apply(t, ns, everything(t))
	if !strings.HasSuffix(first, "\n"+want.String()+zone) {
		t.Errorf("printed\n%s\nwant at its end\n%s%s", first, want, zone)
	}
	if diff := cmp.Diff(first, apply(t, ns, everything(t))); diff != "" {
		t.Errorf("second run differs: %s", diff)
	}
	other, err := rules.New(podplan.InitArgs{ProxyUID: 2000}, true)
	must(t, err)
	apply(t, ns, podplan.InitArgs{ProxyUID: 2000})
	must(t, inside(t, ns, func() error {
		_, err := readBack(&nftables.Conn{}, other)
		return err
	}))
}

// Rules by the hundred: the kernel answers each, and its answers must fit.
func TestApplyManyRules(t *testing.T) {
	ns := newNetns(t)
	args := podplan.InitArgs{ProxyUID: proxyUID}
	for p := uint16(2); p <= 4000; p += 2 {
		args.ExcludeInboundPorts = append(args.ExcludeInboundPorts, netset.PortRange{First: p, Last: p})
	}
	args.ExcludeOutboundPorts = args.ExcludeInboundPorts
	if n := strings.Count(apply(t, ns, args), "tcp dport 4000 return"); n != 4 {
		t.Errorf("the last port has %d rules, want 4", n)
	}
}

// What we print is what nft prints, so that an operator can compare the log with a node; and nft reads it.
func TestTextIsWhatNFTPrints(t *testing.T) {
	nft := program.Find(t, "nft", "apt-get install nftables")
	ns := newNetns(t)
	text := apply(t, ns, everything(t))
	var listed []byte
	must(t, inside(t, ns, func() (err error) {
		listed, err = exec.Command(nft, "list", "ruleset").CombinedOutput()
		return err
	}))
	_, printed, _ := strings.Cut(text, "\n")
	if diff := cmp.Diff(strings.NewReplacer("priority dstnat", "priority -100", "priority filter", "priority 0", "priority raw", "priority -300", "priority mangle", "priority -150").Replace(string(listed)), printed); diff != "" {
		t.Errorf("-nft +ours:\n%s", diff)
	}
	must(t, inside(t, ns, func() error {
		check := exec.Command(nft, "--check", "--file", "-")
		check.Stdin = strings.NewReader(text)
		if out, err := check.CombinedOutput(); err != nil {
			return fmt.Errorf("nft does not read it: %w: %s", err, out)
		}
		return nil
	}))
}

// Each way in which a kernel's table can differ from what was meant is noticed.
func TestReadBackNoticesDifferences(t *testing.T) {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: rules.Table}
	prerouting := &nftables.Chain{Table: table, Name: rules.Prerouting}
	returns := []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
	redirect := rules.Rule{RedirectTo: api.InboundPort}
	for name, c := range map[string]struct {
		change func(*nftables.Conn)
		want   string
	}{
		"a rule in front": {func(c *nftables.Conn) { c.InsertRule(&nftables.Rule{Table: table, Chain: prerouting, Exprs: returns}) }, "rule 1 is return, meant was tcp dport"},
		"a rule behind":   {func(c *nftables.Conn) { c.AddRule(&nftables.Rule{Table: table, Chain: prerouting, Exprs: returns}) }, "meant was no further rule"},
		"another expression": {func(c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: table, Chain: prerouting, Exprs: []expr.Any{&expr.Counter{}}})
		}, "Counter"},
		"no rules": {func(c *nftables.Conn) { c.FlushChain(prerouting) }, "rule 1 is missing: tcp dport"},
		"another comment": {func(c *nftables.Conn) {
			c.FlushChain(prerouting)
			// malformed on purpose
			c.AddRule(&nftables.Rule{Table: table, Chain: prerouting, Exprs: encode(redirect), UserData: []byte{0, 200, 1}})
		}, "rule 1 is meta l4proto tcp redirect to :15006"},
		"a chain too much":              {func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Table: table, Name: "more"}) }, "6 chains instead of 5"},
		"no table":                      {func(c *nftables.Conn) { c.DelTable(table) }, "0 chains instead of 5"},
		"no rules in the egress filter": {func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Table: table, Name: rules.EgressFilter}) }, "chain guard: rule 1 is missing: meta skuid 15000 ip saddr"},
		"a rule before the egress filter's": {func(c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Table: table, Name: rules.EgressFilter}, Exprs: returns})
		}, "chain guard: rule 1 is return"},
		"another priority": {func(c *nftables.Conn) {
			c.FlushChain(prerouting)
			c.DelChain(prerouting)
			moved, _ := makeChain(table, rules.Chain{Name: rules.Prerouting})
			moved.Priority = nftables.ChainPriorityRef(-101)
			c.AddChain(moved)
		}, "at priority -100"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := newNetns(t)
			args := podplan.InitArgs{ProxyUID: proxyUID}
			apply(t, ns, args)
			want, err := rules.New(args, true)
			must(t, err)
			err = inside(t, ns, func() error {
				conn := &nftables.Conn{}
				c.change(conn)
				if err := conn.Flush(); err != nil {
					t.Error(err)
				}
				_, err := readBack(conn, want)
				return err
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one that says %q", err, c.want)
			}
			apply(t, ns, args) // and the next run mends it
		})
	}
}

func TestApplyRefusesForeignMeshes(t *testing.T) {
	for _, c := range []struct {
		family             nftables.TableFamily
		table, chain, mesh string
	}{
		{nftables.TableFamilyIPv4, "nat", "ISTIO_OUTPUT", "Istio"},
		{nftables.TableFamilyINet, "istio-proxy-nat", "output", "Istio"},
		{nftables.TableFamilyIPv4, "nat", "PROXY_INIT_OUTPUT", "Linkerd"},
		{nftables.TableFamilyIPv6, "nat", "CONSUL_PROXY_OUTPUT", "Consul"},
		{nftables.TableFamilyIPv4, "nat", "KUMA_MESH_OUTBOUND", "Kuma"},
		{nftables.TableFamilyIPv4, "nat", "OSM_PROXY_INBOUND", "Open Service Mesh"},
		{nftables.TableFamilyIPv4, "nat", "APPMESH_EGRESS", "AWS App Mesh"},
	} {
		t.Run(c.table+" "+c.chain, func(t *testing.T) {
			ns := newNetns(t)
			must(t, inside(t, ns, func() error {
				conn := &nftables.Conn{}
				table := conn.AddTable(&nftables.Table{Family: c.family, Name: c.table})
				conn.AddChain(&nftables.Chain{Table: table, Name: c.chain})
				return conn.Flush()
			}))
			text, err := tryApply(t, ns, podplan.InitArgs{ProxyUID: proxyUID})
			if err == nil || !strings.Contains(err.Error(), c.mesh) || text != "" {
				t.Errorf("got %q and error %v, want a refusal that names %s", text, err, c.mesh)
			}
			must(t, inside(t, ns, func() error {
				tables, err := (&nftables.Conn{}).ListTables()
				if err == nil && len(tables) != 1 {
					err = fmt.Errorf("%d tables, want the foreign one alone", len(tables))
				}
				return err
			}))
		})
	}
}

// Tables of others, such as a CNI plugin's, are none of our business.
func TestApplyLeavesOtherTablesAlone(t *testing.T) {
	ns := newNetns(t)
	must(t, inside(t, ns, func() error {
		conn := &nftables.Conn{}
		conn.AddChain(&nftables.Chain{Table: conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"}), Name: "CNI-HOSTPORT"})
		return conn.Flush()
	}))
	apply(t, ns, podplan.InitArgs{ProxyUID: proxyUID})
	must(t, inside(t, ns, func() error {
		chains, err := (&nftables.Conn{}).ListChains()
		const ours = 5 + 3 // of the rules, and of the zone
		if err == nil && len(chains) != ours+1 {
			err = fmt.Errorf("%d chains, want ours and CNI-HOSTPORT", len(chains))
		}
		return err
	}))
}

func TestApplyErrors(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*testing.T) netns.NsHandle
		args    podplan.InitArgs
		want    string
	}{
		"IPv6 on eth0, not on lo": {func(t *testing.T) netns.NsHandle {
			l := newLab(t)
			setSysctl(t, l.pod, "net/ipv6/conf/lo/disable_ipv6", "1")
			return l.pod
		}, podplan.InitArgs{ProxyUID: proxyUID}, "net.ipv6.conf.lo.disable_ipv6=0"},
		"lo is down": {func(t *testing.T) netns.NsHandle {
			ns := newNetns(t)
			must(t, inside(t, ns, func() error {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				return netlink.LinkSetDown(lo)
			}))
			return ns
		}, podplan.InitArgs{ProxyUID: proxyUID}, "lo is down"},
		"unknown back end": {newNetns, podplan.InitArgs{ProxyUID: proxyUID, Backend: "ipfw"}, `"ipfw"`},
		"user 0":           {newNetns, podplan.InitArgs{}, "--proxy-uid"},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := tryApply(t, c.prepare(t), c.args)
			if err == nil || !strings.Contains(err.Error(), c.want) || text != "" {
				t.Errorf("got %q and error %v, want one that says %q", text, err, c.want)
			}
		})
	}
}
