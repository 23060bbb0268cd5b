package graph

import (
	"cmp"
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/internal/netset"
)

// crowd is the number of workloads of one namespace from which on their edges to one target are drawn as one.
const crowd = 4

// view is the graph as it is drawn: without what would only be repeated. Workloads that the whole mesh may call share
// one box per namespace and one edge, a namespace whose every workload may call the same is one source, and whoever may
// call itself says so in its box.
type view struct {
	Graph
	index  map[string]int  // of Nodes by ID
	self   map[string]Edge // by ID
	spaces []space
}

// space is a namespace. The numbers are indexes of Nodes.
type space struct {
	name        string
	open        []int // every identity of the mesh may connect
	rest        []int
	passthrough bool // workloads may reach destinations outside of the mesh
}

func newView(g Graph) *view {
	v := &view{Graph: Graph{TrustDomain: g.TrustDomain, Nodes: slices.Clone(g.Nodes), Open: g.Open}, index: map[string]int{}, self: map[string]Edge{}}
	for _, e := range g.Edges {
		if e.From == e.To {
			v.self[e.From] = e
		} else if e.From != AnyMeshID {
			v.Edges = append(v.Edges, e)
		}
	}
	v.joinCrowds()
	v.sorted()
	for i, n := range v.Nodes {
		v.index[n.ID] = i
		v.place(i, n)
	}
	return v
}

func (v *view) place(i int, n Node) {
	if n.Namespace == "" || n.Class == group {
		return
	}
	at, found := slices.BinarySearchFunc(v.spaces, n.Namespace, func(s space, name string) int { return cmp.Compare(s.name, name) })
	if !found {
		v.spaces = slices.Insert(v.spaces, at, space{name: n.Namespace, passthrough: slices.Contains(v.Open, n.Namespace)})
	}
	if n.Access == ByDefault {
		v.spaces[at].open = append(v.spaces[at].open, i)
	} else {
		v.spaces[at].rest = append(v.spaces[at].rest, i)
	}
}

// joinCrowds replaces the edges from every workload of a namespace to one target by an edge from the namespace.
func (v *view) joinCrowds() {
	namespace, size := map[string]string{}, map[string]int{}
	for _, n := range v.Nodes {
		if n.Class == Mesh {
			namespace[n.ID] = n.Namespace
			size[n.Namespace]++
		}
	}
	type bunch struct{ namespace, to, ports string }
	key := func(e Edge) bunch { return bunch{namespace[e.From], e.To, e.Ports.String()} }
	count := map[bunch]int{}
	for _, e := range v.Edges {
		count[key(e)]++
	}
	joined, groups := map[bunch]bool{}, map[string]bool{}
	var edges []Edge
	for _, e := range v.Edges {
		k := key(e)
		others := size[k.namespace]
		if namespace[e.To] == k.namespace {
			others-- // it needs no permission to call itself
		}
		switch {
		case k.namespace == "" || others < crowd || count[k] < others:
			edges = append(edges, e)
		case !joined[k]:
			joined[k] = true
			id := "group:" + k.namespace
			if !groups[id] {
				groups[id] = true
				v.Nodes = append(v.Nodes, Node{ID: id, Class: group, Namespace: k.namespace, Name: "every workload of " + k.namespace})
			}
			edges = append(edges, Edge{From: id, To: e.To, Ports: e.Ports})
		}
	}
	v.Edges = edges
}

// sources are the nodes that stand in no namespace and have edges, the whole mesh first.
func (v *view) sources() []int {
	var found []int
	for i, n := range v.Nodes {
		if style(n) == "source" {
			found = append(found, i)
		}
	}
	return found
}

// portsText words the ports of an edge.
func portsText(p netset.Ports) string {
	if len(p) == 0 {
		return "any port"
	}
	return strings.ReplaceAll(p.String(), ",", ", ")
}

// facts are what a reviewer should see of a node.
func (v *view) facts(n Node) []string {
	var facts []string
	if e, ok := v.self[n.ID]; ok {
		facts = append(facts, "may call itself: "+portsText(e.Ports))
	}
	switch {
	case n.Class == Outside:
		facts = append(facts, "outside of the mesh")
	case n.Class == External:
		facts = append(facts, "leads outside of the mesh")
	case n.Class == Unknown:
		facts = append(facts, "nobody knows who is behind it")
	case n.Access == Nobody:
		facts = append(facts, "lets no identity in")
	}
	if n.DryRun && n.Access != ByDefault {
		facts = append(facts, "dry run: nobody is denied")
	}
	switch {
	case n.PermissivePorts == AllPorts && len(n.StrictPorts) > 0:
		facts = append(facts, "plaintext accepted: any port but "+portsText(n.StrictPorts))
	case n.PermissivePorts == AllPorts:
		facts = append(facts, "plaintext accepted: any port")
	case n.PermissivePorts != "":
		facts = append(facts, "plaintext accepted: "+strings.ReplaceAll(n.PermissivePorts, ",", ", "))
	}
	if len(n.TLSPassthroughPorts) > 0 {
		facts = append(facts, "TLS of the app's own accepted from anyone: "+portsText(n.TLSPassthroughPorts))
	}
	if len(n.PlaintextPorts) > 0 {
		facts = append(facts, "plaintext only: "+portsText(n.PlaintextPorts))
	}
	for _, s := range n.Services {
		if len(s.PlaintextPorts) > 0 && n.Class == Mesh {
			facts = append(facts, "plaintext by "+s.Name+": "+strings.Join(s.PlaintextPorts, ", "))
		}
	}
	if n.NoRedirect {
		facts = append(facts, "no redirect rules: addresses that are not of DNS bypass the proxy")
	}
	if len(n.PlaintextInterfaces) > 0 {
		facts = append(facts, "plaintext through: "+strings.Join(n.PlaintextInterfaces, ", "))
	}
	for _, way := range n.Bypass {
		facts = append(facts, "bypass: "+way)
	}
	return facts
}

// lines are what Mermaid and DOT write into a node.
func (v *view) lines(n Node) []string {
	lines := []string{n.Name}
	if n.Kind != "" {
		lines = append(lines, n.Kind)
	}
	for _, s := range n.Services {
		line := "⇢ " + s.Name
		if ports := slices.Concat(each(s.Ports), s.PlaintextPorts); len(ports) > 0 {
			line += ":" + strings.Join(ports, ",")
		}
		lines = append(lines, line)
	}
	return append(lines, v.facts(n)...)
}

// each are the ports of a set as texts.
func each(p netset.Ports) []string {
	if len(p) == 0 {
		return nil
	}
	return strings.Split(p.String(), ",")
}

// style is the name of a node's style in every format.
func style(n Node) string {
	switch {
	case n.Class == AnyMesh || n.Class == Identity || n.Class == group:
		return "source"
	case n.Class != Mesh:
		return "outside"
	case n.PermissivePorts != "" || len(n.TLSPassthroughPorts) > 0 || len(n.PlaintextPorts) > 0 || len(n.PlaintextInterfaces) > 0 || len(n.Bypass) > 0 || n.NoRedirect,
		slices.ContainsFunc(n.Services, func(s Service) bool { return len(s.PlaintextPorts) > 0 }):
		return "leaky"
	case n.Access == Nobody:
		return "closed"
	}
	return "mesh"
}
