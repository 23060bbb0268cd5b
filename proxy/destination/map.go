package destination

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Kind says how a connection to a destination is to be made.
type Kind string

// The kinds of destinations.
const (
	Mesh      Kind = "mesh"      // mutual TLS, or nothing
	Plaintext Kind = "plaintext" // in the mesh, but the port opted out
	Unknown   Kind = "unknown"   // outside the mesh: the mesh map says whether it passes
	Refused   Kind = "refused"   // it cannot be told safely: close
)

// Destination is the answer for one address and port.
type Destination struct {
	Kind       Kind
	Host       string   // the Service, for people; several are joined by commas; empty when none is known
	Identities []string // SPIFFE IDs, or of a federated trust domain patterns of them, that may answer; only for Mesh
	// any identity of TrustDomain may answer (meshCIDRs, or a federation without identities); only for Mesh
	AnyMember bool
	Reason    string // why Refused

	TrustDomain string // of whoever may answer; only for Mesh
}

// Accepts tells whether a verified identity may answer for the destination. Identities of other trust domains than the
// destination's never may.
func (d Destination) Accepts(id spiffeid.ID) bool {
	if d.Kind != Mesh || id.IsZero() || id.TrustDomain().Name() != d.TrustDomain {
		return false
	}
	return d.AnyMember || slices.ContainsFunc(d.Identities, func(pattern string) bool { return meshmap.MatchID(pattern, id) })
}

// Expected describes, for error messages, who may answer.
func (d Destination) Expected() string {
	if d.AnyMember {
		return "identities of trust domain " + d.TrustDomain
	}
	return strings.Join(d.Identities, ", ")
}

// Lookup is what DNS says about an address. It holds no decision, so that it stays true when the mesh map changes.
type Lookup struct {
	Names []Name
	Err   error // DNS did not answer; Names holds what it said earlier
	// why it proves nothing that DNS has no name, or no other name, for the address
	Uncertain error
}

// Name is a name of an address below svc.<clusterDomain>.
type Name struct {
	Service   string // <service>.<namespace>, in lower case
	Endpoint  bool   // the address is an endpoint's (a pod's), not the Service's clusterIP
	Confirmed bool   // the name's own address records contain the address
	// found in the Service's address records alone: its clusterIP or, if it is headless, an endpoint; DNS does not say
	// which
	Forward bool
	// DNS confirmed it within the last minutes, but does not say it now; the Service was in the mesh then
	Remembered bool
}

// Map answers from the mesh map and from lookups. It is pure and immutable.
type Map struct {
	mesh     *meshmap.Map
	byIP     map[netip.Addr][]*meshmap.Service
	hosts    map[string]*meshmap.Service
	services []string // the <service>.<namespace> of each
}

// NewMap indexes the Services of mesh.
func NewMap(mesh *meshmap.Map) *Map {
	m := &Map{mesh: mesh, byIP: map[netip.Addr][]*meshmap.Service{}, hosts: map[string]*meshmap.Service{}}
	for i := range mesh.Services {
		s := &mesh.Services[i]
		m.hosts[s.Host] = s
		if name, ok := serviceOf(s.Host, mesh.ClusterDomain); ok {
			m.services = append(m.services, name)
		}
		for _, ip := range s.ClusterIPs {
			m.byIP[plain(ip)] = append(m.byIP[plain(ip)], s)
		}
	}
	return m
}

// service is the Service of the mesh with this <service>.<namespace>, or nil.
func (m *Map) service(name string) *meshmap.Service {
	return m.hosts[name+".svc."+strings.ToLower(m.mesh.ClusterDomain)]
}

// nameless tells whether l holds no name that says something: none of the mesh, and none that is confirmed.
func (m *Map) nameless(l Lookup) bool {
	return !m.knows(l) && !slices.ContainsFunc(l.Names, func(n Name) bool { return n.Confirmed })
}

// knows tells whether l holds a name of a Service of the mesh.
func (m *Map) knows(l Lookup) bool {
	return slices.ContainsFunc(l.Names, func(n Name) bool { return m.service(n.Service) != nil })
}

// match is a Service of the mesh that stands behind an address, as a manifest claims or as DNS confirms.
type match struct {
	service *meshmap.Service
	// by a clusterIP of the map: a manifest can claim the address of another team's Service
	claimed  bool
	endpoint bool
	either   bool // endpoint or clusterIP
}

// Decide answers for one destination. The clusterIPs of the map and the names that DNS confirms count together;
// meshCIDRs count only where there is neither. The absence of an answer never turns encryption off. A name of the mesh
// that is not confirmed refuses. A DNS that does not answer refuses too, unless clusterIPs or earlier names lead to
// mutual TLS; a DNS whose denial proves nothing refuses unless meshCIDRs lead there as well. An address in a network of
// a federated trust domain is that domain's: if a Service of ours is found there too, the connection is refused, since
// no server belongs to both.
func (m *Map) Decide(dst netip.AddrPort, l Lookup) Destination {
	addr := plain(dst.Addr())
	var matches []match
	for _, s := range m.byIP[addr] {
		matches = append(matches, match{service: s, claimed: true})
	}
	uncertain := l.Uncertain
	for _, name := range l.Names {
		s := m.service(name.Service)
		switch {
		case s == nil && name.Remembered:
			uncertain = fmt.Errorf("%s was an address of %s, which has left the mesh map, and has no name now", addr, name.Service)
		case s == nil:
		case !name.Confirmed:
			return Destination{Kind: Refused, Host: s.Host, Reason: fmt.Sprintf("dns: %s names itself %s, which does not resolve to it", addr, s.Host)}
		default:
			matches = append(matches, match{service: s, endpoint: name.Endpoint, either: name.Forward})
		}
	}
	foreign := m.federated(addr)
	switch {
	case len(matches) > 0 && foreign != nil:
		return Destination{Kind: Refused, Host: matches[0].service.Host, Reason: fmt.Sprintf("%s is an address of %s, and in the networks of the trust domain %s: who may answer cannot be told",
			addr, matches[0].service.Host, foreign.TrustDomain)}
	case len(matches) > 0:
		d := combine(matches, dst.Port(), m.mesh.TrustDomain)
		if why := noPlaintext(addr, matches, l.Err, uncertain); d.Kind == Plaintext && why != "" {
			return Destination{Kind: Refused, Host: d.Host, Reason: fmt.Sprintf("port %d takes plaintext, which %s", dst.Port(), why)}
		}
		return d
	case l.Err != nil:
		return Destination{Kind: Refused, Reason: "dns: " + l.Err.Error()}
	case netset.Prefixes(m.mesh.Outbound.MeshCIDRs).Contains(addr):
		return Destination{Kind: Mesh, AnyMember: true, TrustDomain: m.mesh.TrustDomain}
	case foreign != nil:
		return Destination{Kind: Mesh, Identities: foreign.Identities, AnyMember: len(foreign.Identities) == 0, TrustDomain: foreign.TrustDomain}
	case uncertain != nil:
		return Destination{Kind: Refused, Reason: "dns: " + uncertain.Error()}
	}
	return Destination{Kind: Unknown}
}

// federated is the entry whose networks hold addr, or nil. The parser sees to it that there is one at most, and that
// meshCIDRs do not hold it.
func (m *Map) federated(addr netip.Addr) *meshmap.Federation {
	for i, f := range m.mesh.Federation {
		if netset.Prefixes(f.CIDRs).Contains(addr) {
			return &m.mesh.Federation[i]
		}
	}
	return nil
}

// plain is addr in the form in which maps and caches know it.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// unconfirmed is a Service that claims the address without a name of its own there, or nil. Mutual TLS to the
// identities of such a Service is safe; plaintext would go to any server that has the address.
func unconfirmed(matches []match) *meshmap.Service {
	for _, m := range matches {
		if m.claimed && !slices.ContainsFunc(matches, func(o match) bool { return !o.claimed && o.service == m.service }) {
			return m.service
		}
	}
	return nil
}

// noPlaintext is why an address must not get plaintext although all Services found there agree to it, or empty.
func noPlaintext(addr netip.Addr, matches []match, err, uncertain error) string {
	unsure := cmp.Or(err, uncertain)
	claim := unconfirmed(matches)
	switch {
	case claim == nil && unsure == nil:
		return ""
	case claim == nil:
		return "needs DNS to tell whether " + addr.String() + " belongs to other Services as well: " + unsure.Error()
	case unsure != nil:
		return "needs DNS to confirm that " + addr.String() + " is of " + claim.Host + ": " + unsure.Error()
	case !private(addr):
		return "needs DNS to confirm that " + addr.String() + " is of " + claim.Host + ": it is not asked for public addresses"
	}
	return "needs DNS to confirm that " + addr.String() + " is of " + claim.Host + ": it has no such name"
}

// combine answers for an address behind which several Services may stand, as a pod behind two of them does. The peer
// must be acceptable to each: the identities are the intersection, and plaintext needs the consent of all.
func combine(matches []match, port uint16, trustDomain string) Destination {
	d := Destination{Kind: Mesh, TrustDomain: trustDomain}
	plaintext := true
	var hosts []string
	for i, m := range matches {
		if !slices.Contains(hosts, m.service.Host) {
			hosts = append(hosts, m.service.Host)
		}
		plaintext = plaintext && m.plaintext(port)
		if i == 0 {
			d.Identities = slices.Clone(m.service.Identities)
			continue
		}
		d.Identities = slices.DeleteFunc(d.Identities, func(id string) bool { return !slices.Contains(m.service.Identities, id) })
	}
	slices.Sort(hosts)
	d.Host = strings.Join(hosts, ",")
	switch {
	case plaintext:
		return Destination{Kind: Plaintext, Host: d.Host}
	case len(d.Identities) == 0:
		return Destination{Kind: Refused, Host: d.Host, Reason: "no identity may answer for all Services of this address"}
	}
	return d
}

// plaintext tells whether the port opted out. The proxy's own metrics and health ports, which init leaves alone, are
// never TLS; as ports of a Service those numbers mean nothing special.
func (m match) plaintext(port uint16) bool {
	service := m.service.PlaintextPorts.Contains(port)
	target := port == api.MetricsPort || port == api.HealthPort || m.service.PlaintextTargetPorts.Contains(port)
	switch {
	case m.either:
		return service && target
	case m.endpoint:
		return target
	}
	return service
}
