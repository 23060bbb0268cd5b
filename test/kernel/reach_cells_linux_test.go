package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/meshless-dev/meshless/test/lab"
)

// The second matrix is about who is behind an address: by which label a Service finds its pods, which package renders
// client and server, how old the client's map is, which name server answers, in which networks all that lies, and what
// the client dials. Not the whole product is run: each pair of values occurs (see TestReachPairs).

// selector is how a Service of the matrix finds its pods.
type selector string

const (
	byTemplate selector = "plain" // labels of the pod template
	byPodName  selector = "name"  // statefulset.kubernetes.io/pod-name, which the controller puts on
	byPodIndex selector = "index" // apps.kubernetes.io/pod-index, the same
	byRole     selector = "role"  // a label that an agent puts on at run time
	bySomebody selector = "hand"  // no selector: somebody writes the EndpointSlices, an annotation says for whom
	noService  selector = "lone"  // a workload without any Service
)

var selectors = []selector{byTemplate, byPodName, byPodIndex, byRole, bySomebody}

// age is what the client's map does not know of the server, since it was rendered before.
type age string

const (
	fresh   age = "fresh"   // nothing has changed
	added   age = "added"   // Service and workload are new
	renamed age = "renamed" // the workload has another name
	moved   age = "moved"   // the Service led to another workload
)

var ages = []age{fresh, added, renamed, moved}

// relation is how the client's package stands to the server's.
type relation string

const (
	one    relation = "one package"
	wide   relation = "one package, two namespaces"
	beside relation = "two packages, one namespace"
	apart  relation = "two packages, two namespaces"
)

// dial is what the client dials.
type dial string

const (
	dialVIP      dial = "clusterIP"
	dialHeadless dial = "headless"
	dialPod      dial = "pod address"
	dialUnready  dial = "address of a pod that is not ready"
	dialYoung    dial = "address of a pod that DNS has just learned"
)

// world is one cluster, in which every client dials every server.
type world struct {
	dns     string // "" is the lab's own name server
	network string
	shared  bool // the packages have one authority; without, there is one package
	shift   int  // which selector has which age
}

func (w world) String() string {
	dns, ca := w.dns, "own CA"
	if dns == "" {
		dns = "lab DNS"
	}
	if w.shared {
		ca = "shared CA"
	}
	return fmt.Sprintf("%s/%s/%s", dns, w.network, ca)
}

// networks are ranges of which clouds give addresses: not only private ones. The first part is that of IPv4.
var networks = map[string]lab.Network{
	"private": {Pods4: netip.MustParseAddr("10.244.0.0"), Services4: netip.MustParseAddr("10.96.0.0"), // as kubeadm's documentation has them
		Pods6: netip.MustParseAddr("fd44::"), Services6: netip.MustParseAddr("fd96::")},
	"GKE, EKS with IPv6": {Pods4: netip.MustParseAddr("240.10.0.0"), Services4: netip.MustParseAddr("34.118.224.0"),
		Pods6: netip.MustParseAddr("2600:1f14:1:2::"), Services6: netip.MustParseAddr("2600:1f14:1:ffff::")},
	"benchmark, documentation": {Pods4: netip.MustParseAddr("198.18.0.0"), Services4: netip.MustParseAddr("192.0.2.0"),
		Pods6: netip.MustParseAddr("2001:db8:1::"), Services6: netip.MustParseAddr("fd43::")},
}

func worlds() (all []world) {
	for i, dns := range append([]string{""}, lab.CoreDNSVersions...) {
		for j, network := range []string{"private", "GKE, EKS with IPv6", "benchmark, documentation"} {
			all = append(all, world{dns, network, (i+j)%2 == 0, (3*i + j) % len(ages)})
		}
	}
	return all
}

// age is that of the server in a client's map.
func (w world) age(s selector) age {
	for i, other := range selectors {
		if s == other {
			return ages[(i+w.shift)%len(ages)]
		}
	}
	return fresh
}

// Clients are named after how they stand to package "servers", which has most of the servers; "others" has the rest.
var clients = []string{"one", "wide", "beside", "apart"}

func (w world) clients() []string {
	if w.shared {
		return clients
	}
	return clients[:2]
}

// packageOf is the package of a server: with a shared authority there are three packages in the servers' namespace.
func (w world) packageOf(s selector) string {
	if w.shared && (s == byRole || s == bySomebody) {
		return "others"
	}
	return "servers"
}

func (w world) relation(client string, s selector) relation {
	far := client == "wide" || client == "apart"
	same := (client == "one" || client == "wide") && w.packageOf(s) == "servers"
	switch {
	case same && far:
		return wide
	case same:
		return one
	case far:
		return apart
	}
	return beside
}

// cell is one conversation of a world with a pod of the mesh.
type reachCell struct {
	world  world
	client string
	server selector
	dial   dial
	family int
}

func (c reachCell) String() string {
	return fmt.Sprintf("%s, %s/%s, %s/%s/IPv%d", c.client, c.world.relation(c.client, c.server), c.server, c.world.age(c.server), c.dial, c.family)
}

// cells are those of a world.
func (w world) cells() (cells []reachCell) {
	for _, client := range w.clients() {
		for _, family := range []int{4, 6} {
			for _, s := range selectors {
				for _, d := range []dial{dialUnready, dialPod, dialHeadless, dialVIP} {
					cells = append(cells, reachCell{w, client, s, d, family})
				}
			}
			for _, d := range []dial{dialUnready, dialPod, dialYoung} {
				cells = append(cells, reachCell{w, client, noService, d, family})
			}
		}
	}
	return cells
}

// Each pair of values of two dimensions occurs, but for those that cannot: without a Service there is neither a
// clusterIP nor a headless name, and its map cannot be older in another way than the pod is.
func TestReachPairs(t *testing.T) {
	seen := map[[2]string]bool{}
	values := map[string]map[string]bool{}
	names := map[string]bool{}
	for _, w := range worlds() {
		for _, c := range w.cells() {
			name := w.String() + "/" + c.String()
			if names[name] {
				t.Errorf("%s is there twice", name)
			}
			names[name] = true
			dimensions := map[string]string{
				"selector": string(c.server), "relation": string(w.relation(c.client, c.server)), "age": string(w.age(c.server)), "name server": w.dns,
				"network": w.network, "dial": string(c.dial), "family": fmt.Sprint(c.family), "authority": fmt.Sprint(w.shared),
			}
			for a, x := range dimensions {
				if values[a] == nil {
					values[a] = map[string]bool{}
				}
				values[a][x] = true
				for b, y := range dimensions {
					seen[[2]string{a + x, b + y}] = true
				}
			}
		}
	}
	for a := range values {
		for b := range values {
			for x := range values[a] {
				for y := range values[b] {
					if a < b && !seen[[2]string{a + x, b + y}] && !impossible(a, x, b, y) {
						t.Errorf("%s %q and %s %q never occur together", a, x, b, y)
					}
				}
			}
		}
	}
	t.Logf("%d cells in %d worlds", len(names), len(worlds()))
}

// impossible pairs: a is before b in the alphabet.
func impossible(a, x, b, y string) bool {
	switch {
	case b == "selector" && y == string(noService):
		return a == "dial" && (x == string(dialVIP) || x == string(dialHeadless)) || a == "age" && x != string(fresh)
	case b == "selector" && a == "dial" && x == string(dialYoung):
		return true
	case a == "age" && b == "dial" && y == string(dialYoung):
		return x != string(fresh)
	case a == "authority" && x == "false" && b == "relation":
		return y == string(beside) || y == string(apart)
	}
	return false
}
