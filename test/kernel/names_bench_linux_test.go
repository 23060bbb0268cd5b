package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/test/env"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

// Sizes of BenchmarkNames: Services and pods of the client's namespace, and how many of each are dialed.
const (
	benchServices = 1000
	benchDialed   = 100
	benchBehind   = 20 // Services of one workload
	benchLoad     = 15 * time.Second
)

// BenchmarkNames counts what it costs to know who is behind an address, in this edition and in the one before: queries
// to the name server for each new address, the first conversation's time, and queries in a second of a proxy whose app
// goes on dialing. Nothing depends on it.
//
//	sudo -E go test ./test/kernel -run '^$' -bench Names
func BenchmarkNames(b *testing.B) {
	program.InHistory(b, env.EditionBefore())
	meshless := program.Find(b, filepath.Join(editionBefore, "meshless"), "test/env/programs.sh builds it")
	for _, edition := range []string{"before", "this"} {
		b.Run(edition, func(b *testing.B) {
			pkg := example.Copy(b, "../../examples/pod")
			change := func(rendered string) string { return rendered }
			if edition == "before" {
				pkg.Program, change = meshless, ofEditionBefore
			}
			n := startNames(b, pkg, change, meshless)
			measureOnce(b, "Services", func(b *testing.B) map[string]float64 { return n.dialAll(b, n.services, true) })
			measureOnce(b, "pods", func(b *testing.B) map[string]float64 { return n.dialAll(b, n.endpoints, false) })
			measureOnce(b, "nameless", func(b *testing.B) map[string]float64 { return n.dialAll(b, addresses("10.42.200.0"), false) })
			measureOnce(b, "Internet", func(b *testing.B) map[string]float64 { return n.dialAll(b, addresses("8.8.200.0"), false) })
			measureOnce(b, "steady", n.steady)
		})
	}
}

// measureOnce measures once, however often the benchmark is run: what has been dialed is not new any more.
func measureOnce(b *testing.B, name string, measure func(*testing.B) map[string]float64) {
	var measured map[string]float64
	b.Run(name, func(b *testing.B) {
		if measured == nil {
			measured = measure(b)
		}
		for unit, value := range measured {
			b.ReportMetric(value, unit)
		}
		b.ReportMetric(0, "ns/op")
	})
}

type namesBench struct {
	*lab.Lab
	speaker
	client              *lab.Pod
	services, endpoints []netip.Addr
}

func startNames(b *testing.B, pkg *example.Example, change func(string) string, meshless string) *namesBench {
	b.Helper()
	n := &namesBench{Lab: lab.NewMeshless(b, nil, withEditionBefore(meshless)), speaker: newSpeaker()}
	var manifests strings.Builder
	manifests.WriteString(clientManifests("one"))
	for i := range benchServices {
		app := fmt.Sprintf("app-%d", i/benchBehind)
		if i%benchBehind == 0 {
			manifests.WriteString(storeWorkload("Deployment", dataNamespace, app, ""))
		}
		manifests.WriteString(storeService(dataNamespace, fmt.Sprintf("s-%d", i), "selector: {app: "+app+"}", ""))
	}
	pkg.Write(b, "pod.yaml", manifests.String())
	pkg.Issue(b, time.Now())
	applyRendered(b, n.Lab, pkg, change)
	for i := range benchDialed / benchBehind {
		n.StartPod(fmt.Sprintf("Deployment/data/app-%d", i))
	}
	n.client = n.StartPod("Deployment/data/one")
	n.refuse(b, "10.42.100.0/22", "10.42.200.0/22", "8.8.200.0/22")
	var members []lab.Endpoint // pods that are nowhere
	behind := map[string][]lab.Endpoint{}
	for i, ip := range addresses("10.42.100.0")[:benchServices] {
		members = append(members, lab.Endpoint{IP4: ip})
		if i >= benchDialed {
			behind[fmt.Sprintf("s-%d", i)] = []lab.Endpoint{members[i]}
			n.endpoints = append(n.endpoints, ip)
		}
	}
	if name := n.membersService(); name != "" {
		behind[name] = members
	}
	n.SetAllEndpoints(dataNamespace, behind)
	for i := range benchDialed {
		n.services = append(n.services, n.ServiceIP(dataNamespace, fmt.Sprintf("s-%d", i), 4))
	}
	return n
}

// refuse has the node refuse connections to networks at once, as if somebody were there who serves nothing.
func (n *namesBench) refuse(b *testing.B, networks ...string) {
	b.Helper()
	err := n.Node.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		for _, network := range networks {
			_, dst, parsed := net.ParseCIDR(network)
			if err = errors.Join(err, parsed); err == nil {
				err = netlink.RouteAdd(&netlink.Route{Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Dst: dst, LinkIndex: lo.Attrs().Index,
					Scope: netlink.SCOPE_HOST})
			}
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}

// membersService is the members Service of the client's pod, "" in the edition before.
func (n *namesBench) membersService() string {
	for name := range n.ServicesOf(dataNamespace) {
		if strings.HasPrefix(name, "meshless-members-") {
			return name
		}
	}
	return ""
}

// addresses are a thousand, from the first on.
func addresses(first string) (all []netip.Addr) {
	for ip := netip.MustParseAddr(first); len(all) < benchServices; ip = ip.Next() {
		all = append(all, ip)
	}
	return all
}

// dialAll dials addresses for the first time, one after the other.
func (n *namesBench) dialAll(b *testing.B, to []netip.Addr, answered bool) map[string]float64 {
	var times []time.Duration
	before := n.Queries()
	for _, ip := range to[:benchDialed] {
		began := time.Now()
		if s := n.speakTo(n.client, netip.AddrPortFrom(ip, reachPort)); answered && s.err != nil {
			b.Fatalf("%s: %v", ip, s.err)
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return map[string]float64{
		"queries/address": float64(n.Queries()-before) / benchDialed,
		"p50-ms":          float64(times[benchDialed/2].Microseconds()) / 1000,
		"p99-ms":          float64(times[benchDialed*99/100].Microseconds()) / 1000,
	}
}

// steady goes on dialing Services and pods that have been dialed before.
func (n *namesBench) steady(*testing.B) map[string]float64 {
	before, dialed := n.Queries(), 0
	began := time.Now()
	for ; time.Since(began) < benchLoad; dialed++ {
		to := n.services[dialed%benchDialed]
		if dialed%2 == 1 {
			to = n.endpoints[dialed/2%len(n.endpoints)]
		}
		n.speakTo(n.client, netip.AddrPortFrom(to, reachPort))
	}
	took := time.Since(began).Seconds()
	return map[string]float64{"queries/s": float64(n.Queries()-before) / took, "connections/s": float64(dialed) / took}
}
