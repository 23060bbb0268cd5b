package destination

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

// Kind says how a connection to a destination is to be made.
type Kind string

// The kinds of destinations.
const (
	Mesh Kind = "mesh" // mutual TLS, or nothing
	// mutual TLS first: only a peer that proves not to be of the mesh gets plaintext
	TryMesh   Kind = "try_mesh"
	Plaintext Kind = "plaintext" // in the mesh, but the port opted out
	Unknown   Kind = "unknown"   // outside the mesh: the mesh map says whether it passes
	Refused   Kind = "refused"   // it cannot be told safely: close
)

// Destination is the answer for one address and port.
type Destination struct {
	Kind   Kind
	Host   string  // the Service, for people; several are joined by commas; empty when none is known
	Claims []Claim // who answers must meet each; only for Mesh and TryMesh, which have one at least
	Reason string  // why Refused
	Direct bool    // the server has no redirect rules: it is reached at api.DirectPort of the port; only for Mesh

	TrustDomain string // of whoever may answer; only for Mesh and TryMesh
}

// Claim is what is known of one Service, one namespace or one network behind an address: who may answer for it.
type Claim struct {
	Host       string   // of the Service; empty for a namespace and a network
	Namespace  string   // of the Service, or of the pod; empty for a network
	Identities []string // may answer: SPIFFE IDs, or of a federated trust domain patterns of them
	Open       bool     // any identity of Namespace may answer or, where that is empty, any of the trust domain
}

// Acceptance says by what an identity is accepted.
type Acceptance string

// The ways to be accepted, the strongest first.
const (
	ByMap         Acceptance = "map"          // the mesh map lists the identity
	ByLeaf        Acceptance = "leaf"         // the certificate names the Service
	ByNamespace   Acceptance = "namespace"    // it is of the namespace
	ByTrustDomain Acceptance = "trust_domain" // it is of the trust domain
)

var acceptances = []Acceptance{ByMap, ByLeaf, ByNamespace, ByTrustDomain}

// accepts tells by what an identity with the DNS names of its certificate meets the claim; empty if it does not. What a
// certificate names counts for identities of the Service's own namespace alone.
func (c Claim) accepts(id spiffeid.ID, names []string) Acceptance {
	within := c.Namespace != "" && strings.HasPrefix(id.Path(), "/ns/"+c.Namespace+"/")
	switch {
	case slices.ContainsFunc(c.Identities, func(pattern string) bool { return meshmap.MatchID(pattern, id) }):
		return ByMap
	case within && c.Host != "" && slices.Contains(names, c.Host):
		return ByLeaf
	case within && c.Open:
		return ByNamespace
	case c.Open && c.Namespace == "":
		return ByTrustDomain
	}
	return ""
}

// Accepts tells by what a verified identity may answer for the destination, or nothing if it may not. Names are the DNS
// names of its certificate. Identities of other trust domains than the destination's never may. Of several Services the
// weakest acceptance counts.
func (d Destination) Accepts(id spiffeid.ID, names []string) Acceptance {
	if d.Kind != Mesh && d.Kind != TryMesh || id.IsZero() || id.TrustDomain().Name() != d.TrustDomain {
		return ""
	}
	var of, beside Acceptance // Services, and what else there is
	for _, c := range d.Claims {
		by := c.accepts(id, names)
		switch {
		case by == "":
			return ""
		case c.Host == "":
			beside = weaker(beside, by)
		default:
			of = weaker(of, by)
		}
	}
	if of != "" {
		return of
	}
	return beside
}

func weaker(a, b Acceptance) Acceptance {
	if slices.Index(acceptances, a) > slices.Index(acceptances, b) {
		return a
	}
	return b
}

// Expected describes, for error messages, who may answer.
func (d Destination) Expected() string {
	var texts []string
	for _, c := range d.Claims {
		if text := c.expected(d.TrustDomain); !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, ", and ")
}

func (c Claim) expected(trustDomain string) string {
	switch {
	case c.Open && c.Namespace == "":
		return "identities of trust domain " + trustDomain
	case c.Open:
		return "identities of namespace " + c.Namespace
	case c.Host == "":
		return strings.Join(c.Identities, ", ")
	}
	return strings.Join(c.Identities, ", ") + " or one of namespace " + c.Namespace + " whose certificate names " + c.Host
}

// possible tells whether anybody can meet all claims. One identity of a namespace may meet all claims of it, by what
// its certificate names.
func possible(claims []Claim) bool {
	var candidates, hosts []string
	same := true
	for _, c := range claims {
		same = same && c.Namespace != "" && c.Namespace == claims[0].Namespace
		candidates, hosts = append(candidates, c.Identities...), append(hosts, c.Host)
	}
	return same || slices.ContainsFunc(candidates, func(candidate string) bool {
		id, err := spiffeid.FromString(candidate)
		return err == nil && !slices.ContainsFunc(claims, func(c Claim) bool { return c.accepts(id, hosts) == "" })
	})
}
