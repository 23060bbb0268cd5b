// Package authz decides who may connect to this workload. It is pure: identities, a port and the mesh map in, a
// decision out. What no rule allows is denied.
package authz

import (
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

// Reason says why a request is denied, for logs and metrics. It is a small closed set.
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

// Authorize evaluates r by the inbound rules of mesh; the error of a denial is a *Denial. If a workload has a policy,
// only peers that a rule of it allows get in, and the default does not count. Several policies of one workload add up.
// The default is for our own trust domain: a peer of a federated one gets in only where a rule names it, and a rule
// names it only in the words of its own trust domain.
func Authorize(r Request, mesh *meshmap.Map) error {
	deny := func(reason Reason) error { return &Denial{Request: r, Reason: reason} }
	domain := r.Peer.TrustDomain().Name()
	foreign := domain != mesh.TrustDomain
	if r.Peer.IsZero() || r.Peer.Path() == "" || foreign && mesh.Federated(domain) == nil {
		return deny(ForeignTrustDomain)
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
				return nil
			}
			named = true
		}
	}
	switch {
	case named:
		return deny(WrongPort)
	case foreign:
		return deny(ForeignTrustDomain)
	case hasPolicy:
		return deny(NoRule)
	case mesh.Inbound.Default == meshmap.AllowMesh:
		return nil
	}
	return deny(NoPolicy)
}

// Denial is the error of a request that is denied.
type Denial struct {
	Request
	Reason Reason
}

// Foreign tells whether the peer is of another trust domain. A dry run, which is there to learn who in the mesh calls
// whom, does not let it in.
func (d *Denial) Foreign() bool { return d.Peer.TrustDomain() != d.Local.TrustDomain() }

// Error says what to add to the rules.
func (d *Denial) Error() string {
	return fmt.Sprintf("%s may not connect to port %d of %s (%s): allow it in spec.authorization.rules", d.Peer, d.Port, d.Local, d.Reason)
}
