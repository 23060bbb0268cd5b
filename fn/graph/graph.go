// Package graph draws who may talk to whom, for the people who review a change. Build reads rendered manifests, nothing
// else; the writers turn the graph into Mermaid, DOT and JSON. Equal manifests give equal bytes in any order of
// the items, and no name in them can end its quotes.
package graph

import (
	"cmp"
	"slices"

	"github.com/meshless-dev/meshless/internal/netset"
)

// Class says what a node is.
type Class string

// The classes of nodes.
const (
	Mesh     Class = "Mesh"     // a workload with a proxy
	Outside  Class = "Outside"  // a workload without one: what it sends and receives is plaintext
	External Class = "External" // a Service that leads out of the mesh, and to no workload of the input
	Unknown  Class = "Unknown"  // a Service of a mesh namespace of which the input does not tell who is behind it
	AnyMesh  Class = "AnyMesh"  // every identity of the trust domain
	// an identity, or a pattern of them, that a policy allows and that no workload of the input has; or the pattern of
	// all of the mesh
	Identity Class = "Identity"
	Anywhere Class = "Anywhere" // all destinations outside of the mesh
	group    Class = "Group"    // every workload of a namespace; only in pictures, see view
)

// Access says who is let in where mutual TLS is spoken.
type Access string

// The kinds of Access.
const (
	ByDefault Access = "AnyMesh" // no policy, and the default is to allow the mesh
	ByPolicy  Access = "Policy"  // whoever has an edge
	Nobody    Access = "Nobody"  // no policy and the default Deny, or a policy without a rule
)

// AllPorts stands for every port in Node.PermissivePorts.
const AllPorts = "*"

// IDs of the nodes that are not in the manifests.
const (
	AnyMeshID  = "any-mesh"
	AnywhereID = "anywhere"
)

// Graph is who may talk to whom. Nodes are sorted by namespace, class and name, edges by their ends.
type Graph struct {
	TrustDomain string `json:"trustDomain"`
	Nodes       []Node `json:"nodes"`
	Edges       []Edge `json:"edges"`
	// Open are the namespaces whose workloads may reach destinations outside of the mesh, in plaintext
	// (spec.outbound.unknown: Passthrough).
	Open []string `json:"passthroughNamespaces"`
}

// Node is an end of edges.
type Node struct {
	ID        string    `json:"id"` // "<namespace>/<kind>/<name>" for what is in the manifests
	Class     Class     `json:"class"`
	Namespace string    `json:"namespace,omitempty"`
	Kind      string    `json:"kind,omitempty"`
	Name      string    `json:"name"`
	Identity  string    `json:"identity,omitempty"` // SPIFFE ID
	Services  []Service `json:"services,omitempty"` // that front it
	Access    Access    `json:"access,omitempty"`   // of a Mesh node
	// whom Access and edges leave out is let in all the same (spec.authorization.mode: DryRun)
	DryRun          bool   `json:"dryRun,omitempty"`
	PermissivePorts string `json:"permissivePorts,omitempty"`
	// where the app terminates TLS of its own from anyone, beside mutual TLS
	TLSPassthroughPorts netset.Ports `json:"tlsPassthroughPorts,omitempty"`
	StrictPorts         netset.Ports `json:"strictPorts,omitempty"`    // not among AllPorts
	PlaintextPorts      netset.Ports `json:"plaintextPorts,omitempty"` // bypass the proxy: in the clear, from anyone

	// no rules lead its traffic to its proxy: its names do, and the ports of Services (spec.redirect.mode: None)
	NoRedirect bool `json:"noRedirect,omitempty"`

	// what arrives through them bypasses the proxy, on any port
	PlaintextInterfaces netset.Interfaces `json:"plaintextInterfaces,omitempty"`
	// what leaves without the proxy: "port 25", "network 10.1.0.0/16", "interface net1", "user 1001"
	Bypass []string `json:"bypass,omitempty"`
}

// Service is a Service in front of a node.
type Service struct {
	Name  string       `json:"name"`
	Ports netset.Ports `json:"ports,omitempty"` // of TCP
	// those of UDP and SCTP, like "53/UDP": in the clear, from anyone
	PlaintextPorts []string `json:"plaintextPorts,omitempty"`
}

// Edge allows connections with mutual TLS.
type Edge struct {
	From  string       `json:"from"`
	To    string       `json:"to"`
	Ports netset.Ports `json:"ports,omitempty"` // of the container; none means every port
}

// sorted puts everything into the one order that does not depend on the input's.
func (g *Graph) sorted() {
	slices.SortFunc(g.Nodes, func(a, b Node) int {
		return cmp.Or(cmp.Compare(rank(a.Class), rank(b.Class)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	for i := range g.Nodes {
		slices.SortFunc(g.Nodes[i].Services, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	}
	slices.SortFunc(g.Edges, func(a, b Edge) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	slices.Sort(g.Open)
	g.Open = slices.Compact(g.Open)
}

// rank orders the classes: sources, the manifests' own, destinations.
func rank(c Class) int {
	return slices.Index([]Class{AnyMesh, Identity, group, Mesh, Outside, External, Unknown, Anywhere}, c)
}
