// Package authz decides who may connect to this workload. It is pure: identities, a port and the mesh map in, a
// decision out. Whatever it does not understand is denied.
package authz

import (
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

// Reason says why a decision denies, for logs and metrics. It is a small closed set.
type Reason string

// The reasons of a denial.
const (
	// the peer is of another trust domain, and no rule of this workload names it
	ForeignTrustDomain Reason = "foreign_trust_domain"
	NoPolicy           Reason = "no_policy"  // the default is Deny and no policy names this workload
	NoRule             Reason = "no_rule"    // this workload has a policy and no rule of it names the peer
	WrongPort          Reason = "wrong_port" // a rule names the peer, but not for this port
)

// Reasons are all reasons of a denial.
var Reasons = []Reason{ForeignTrustDomain, NoPolicy, NoRule, WrongPort}

// Request is one connection to be authorized. Peer is an identity that TLS has proved; Port is the container's.
type Request struct {
	Peer, Local spiffeid.ID
	Port        uint16
}

// Decision is allowed, or a denial with its reason.
type Decision struct {
	Allowed bool
	Reason  Reason // empty when allowed
}

// Decide evaluates r by the inbound rules of mesh. A workload that has a policy is closed to everyone whom no rule of it
// allows, whatever the default says; several policies of one workload add up. The default is for our own trust domain:
// a peer of a federated one gets in only where a rule names it, and a rule names it only in the words of its own trust
// domain.
func Decide(r Request, mesh *meshmap.Map) Decision {
	domain := r.Peer.TrustDomain().Name()
	foreign := domain != mesh.TrustDomain
	if r.Peer.IsZero() || r.Peer.Path() == "" || foreign && mesh.Federated(domain) == nil {
		return Decision{Reason: ForeignTrustDomain}
	}
	named, hasPolicy := false, false
	for _, p := range mesh.Inbound.Policy {
		if p.Workload != r.Local.String() {
			continue
		}
		hasPolicy = true
		for _, rule := range p.Rules {
			if !slices.ContainsFunc(rule.From, func(pattern string) bool { return meshmap.MatchID(pattern, r.Peer) }) {
				continue
			}
			if len(rule.Ports) == 0 || rule.Ports.Contains(r.Port) {
				return Decision{Allowed: true}
			}
			named = true
		}
	}
	switch {
	case named:
		return Decision{Reason: WrongPort}
	case foreign:
		return Decision{Reason: ForeignTrustDomain}
	case hasPolicy:
		return Decision{Reason: NoRule}
	case mesh.Inbound.Default == meshmap.AllowMesh:
		return Decision{Allowed: true}
	}
	return Decision{Reason: NoPolicy}
}

// Denial is the error form of a decision that denies.
type Denial struct {
	Request
	Reason Reason
}

// Foreign tells whether the peer is of another trust domain. A dry run, which is there to learn who in the mesh calls
// whom, does not let it in.
func (d *Denial) Foreign() bool { return d.Peer.TrustDomain() != d.Local.TrustDomain() }

// Authorize is Decide for callers that want an error: nil, or a *Denial.
func Authorize(r Request, mesh *meshmap.Map) error {
	if d := Decide(r, mesh); !d.Allowed {
		return &Denial{Request: r, Reason: d.Reason}
	}
	return nil
}

// Error says what to add to the rules.
func (d *Denial) Error() string {
	return fmt.Sprintf("%s may not connect to port %d of %s (%s): allow it in spec.authorization.rules", d.Peer, d.Port, d.Local, d.Reason)
}
