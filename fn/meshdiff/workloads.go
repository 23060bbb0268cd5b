package meshdiff

import (
	"math"
	"strings"

	"github.com/meshless-dev/meshless/fn/graph"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

var everyPort = netset.Ports{{First: 1, Last: math.MaxUint16}}

// The modes of a port, each open to more than the one before.
var portModes = []string{string(meshmap.Strict), "TLS of the app's own", string(meshmap.Permissive), "excluded (no proxy, plaintext)"}

// compareWorkloads compares who is in the mesh, and what each workload takes and sends outside of it.
func (c *comparison) compareWorkloads() {
	before, now := c.base.nodes(), c.head.nodes()
	for id, is := range now {
		was, known := before[id]
		switch {
		case is.Class == graph.Outside && !known:
			c.say(workloads, Weaker, "%s: is new, and outside of the mesh", nameOf(is))
		case is.Class == graph.Outside && was.Class == graph.Mesh:
			c.say(workloads, Weaker, "%s: leaves the mesh", nameOf(is))
		case is.Class == graph.Mesh && was.Class == graph.Mesh:
			c.compareWorkload(was, is)
		case is.Class == graph.Mesh:
			c.say(workloads, Gained, "%s: enters the mesh as %s", nameOf(is), is.Identity)
			// what it leaves open is said as of one that was closed
			c.compareWorkload(graph.Node{Identity: is.Identity}, is)
		}
	}
	for id, was := range before {
		if _, there := now[id]; !there && was.Class == graph.Mesh {
			c.say(workloads, Lost, "%s: is gone", nameOf(was))
		}
	}
}

func (c *comparison) compareWorkload(was, is graph.Node) {
	name := nameOf(is)
	if was.Identity != is.Identity {
		c.say(workloads, Changed, "%s: identity %s → %s", name, was.Identity, is.Identity)
	}
	c.comparePorts(was, is)
	if was.NoRedirect != is.NoRedirect {
		c.sayIf(workloads, is.NoRedirect, Weaker, Changed, "%s: redirect mode %s → %s", name, redirectMode(was), redirectMode(is))
	}
	before, now := exclusions(was), exclusions(is)
	for _, e := range added(before, now) {
		c.say(workloads, Weaker, "%s: excludes %s", name, e)
	}
	for _, e := range added(now, before) {
		c.say(workloads, Lost, "%s: excludes %s no longer", name, e)
	}
}

// comparePorts says which ports get another mode, but for those that follow the namespace, which says it.
func (c *comparison) comparePorts(was, is graph.Node) {
	followed := [2]string{string(c.base.inboundMode(is.Namespace)), string(c.head.inboundMode(is.Namespace))}
	before, now := portsByMode(was), portsByMode(is)
	for from := range portModes {
		for to := range portModes {
			ports := before[from].Intersect(now[to])
			if from == to || len(ports) == 0 || followed == [2]string{portModes[from], portModes[to]} {
				continue
			}
			c.sayIf(workloads, to > from, Weaker, Changed, "%s: %s: %s → %s", nameOf(is), portsText(ports), portModes[from], portModes[to])
		}
	}
}

// portsByMode are all ports of a workload, in the order of portModes.
func portsByMode(n graph.Node) [4]netset.Ports {
	excluded := n.PlaintextPorts
	permissive := everyPort.Minus(n.StrictPorts)
	if n.PermissivePorts != graph.AllPorts {
		permissive, _ = netset.ParsePorts(n.PermissivePorts) // the graph has written it
	}
	permissive = permissive.Minus(excluded)
	own := n.TLSPassthroughPorts.Minus(excluded).Minus(permissive)
	return [4]netset.Ports{everyPort.Minus(excluded).Minus(permissive).Minus(own), own, permissive, excluded}
}

func redirectMode(n graph.Node) string {
	if n.NoRedirect {
		return "None"
	}
	return "Rules"
}

// exclusions are what goes around the proxy of a workload, but for ports that come in, which have a mode.
func exclusions(n graph.Node) (list []string) {
	for _, name := range n.PlaintextInterfaces {
		list = append(list, "inbound interface "+name)
	}
	for _, what := range n.Bypass {
		list = append(list, "outbound "+what)
	}
	return list
}

// nodes are the workloads by ID.
func (s *Side) nodes() map[string]graph.Node {
	nodes := map[string]graph.Node{}
	for _, n := range s.graph.Nodes {
		if n.Class == graph.Mesh || n.Class == graph.Outside {
			nodes[n.ID] = n
		}
	}
	return nodes
}

func nameOf(n graph.Node) string {
	return strings.ToLower(n.Kind) + " " + n.Namespace + "/" + n.Name
}

func portsText(ports netset.Ports) string {
	switch {
	case ports.String() == everyPort.String():
		return "every port"
	case len(ports) == 1 && ports[0].First == ports[0].Last:
		return "port " + ports.String()
	}
	return "ports " + strings.ReplaceAll(ports.String(), ",", ", ")
}
