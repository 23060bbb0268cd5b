package resolve

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/contract"
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
	Identities []string // SPIFFE IDs that may answer; only for Mesh
	AnyMember  bool     // any identity of the trust domain may answer (meshCIDRs); only for Mesh
	Reason     string   // why Refused
}

// Accepts tells whether a verified identity may answer for the destination.
func (d Destination) Accepts(id spiffeid.ID) bool {
	return d.Kind == Mesh && (d.AnyMember || slices.Contains(d.Identities, id.String()))
}

// Facts is what DNS says about an address. It holds no decision, so that it stays true when the mesh map changes.
type Facts struct {
	Names []Name
	Err   error // DNS did not answer; Names is empty then
}

// Name is a name of an address below svc.<clusterDomain>.
type Name struct {
	Service   string // <service>.<namespace>, in lower case
	Endpoint  bool   // the address is an endpoint's (a pod's), not the Service's clusterIP
	Confirmed bool   // the name's own address records contain the address
}

// Map answers from the mesh map and from facts. It is pure and immutable.
type Map struct {
	mesh  *contract.Mesh
	byIP  map[netip.Addr][]*contract.Service
	hosts map[string]*contract.Service
}

// NewMap indexes the Services of mesh.
func NewMap(mesh *contract.Mesh) *Map {
	m := &Map{mesh: mesh, byIP: map[netip.Addr][]*contract.Service{}, hosts: map[string]*contract.Service{}}
	for i := range mesh.Services {
		s := &mesh.Services[i]
		m.hosts[s.Host] = s
		for _, ip := range s.ClusterIPs {
			m.byIP[plain(ip)] = append(m.byIP[plain(ip)], s)
		}
	}
	return m
}

// match is a Service of the mesh that stands behind an address, as a manifest claims or as DNS confirms.
type match struct {
	service  *contract.Service
	claimed  bool // by a clusterIP of the map: whoever writes a manifest can claim the address of somebody else's Service
	endpoint bool
}

// Decide answers for one destination. The clusterIPs of the map and the names that DNS confirms count together; only without either
// do meshCIDRs. A name of the mesh that is not confirmed refuses, and so does a DNS that does not answer, unless the clusterIPs alone
// lead to mutual TLS: the absence of an answer never turns encryption off.
func (m *Map) Decide(dst netip.AddrPort, facts Facts) Destination {
	addr := plain(dst.Addr())
	var matches []match
	for _, s := range m.byIP[addr] {
		matches = append(matches, match{service: s, claimed: true})
	}
	if facts.Err != nil && len(matches) == 0 {
		return Destination{Kind: Refused, Reason: "dns: " + facts.Err.Error()}
	}
	for _, name := range facts.Names {
		s := m.hosts[name.Service+".svc."+strings.ToLower(m.mesh.ClusterDomain)]
		if s == nil {
			continue
		}
		if !name.Confirmed {
			return Destination{Kind: Refused, Host: s.Host, Reason: fmt.Sprintf("dns: %s names itself %s, which does not resolve to it", addr, s.Host)}
		}
		matches = append(matches, match{service: s, endpoint: name.Endpoint})
	}
	if len(matches) > 0 {
		d := combine(matches, dst.Port())
		if claim := unconfirmed(matches); d.Kind == Plaintext && claim != nil {
			return Destination{Kind: Refused, Host: d.Host, Reason: fmt.Sprintf("port %d of %s takes plaintext, which needs DNS to confirm that %s is its address: %s",
				dst.Port(), claim.Host, addr, whyUnconfirmed(addr, facts))}
		}
		return d
	}
	if slices.ContainsFunc(m.mesh.Outbound.MeshCIDRs, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return Destination{Kind: Mesh, AnyMember: true}
	}
	return Destination{Kind: Unknown}
}

// plain is addr in the form in which maps and caches know it.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// unconfirmed is a Service that claims the address without a name of its own there, or nil. Mutual TLS to the identities of such a
// Service harms nobody; plaintext would go to whoever has the address.
func unconfirmed(matches []match) *contract.Service {
	for _, m := range matches {
		if m.claimed && !slices.ContainsFunc(matches, func(o match) bool { return !o.claimed && o.service == m.service }) {
			return m.service
		}
	}
	return nil
}

func whyUnconfirmed(addr netip.Addr, facts Facts) string {
	switch {
	case facts.Err != nil:
		return facts.Err.Error()
	case !private(addr):
		return "it is not asked for public addresses"
	}
	return "it has no such name"
}

// combine answers for an address behind which several Services may stand, as a pod behind two of them does. The peer must be
// acceptable to each: the identities are the intersection, and plaintext needs the consent of all.
func combine(matches []match, port uint16) Destination {
	d := Destination{Kind: Mesh}
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

// plaintext tells whether the port opted out. The proxy's own metrics and health ports, which init leaves alone, are never TLS;
// as ports of a Service those numbers mean nothing special.
func (m match) plaintext(port uint16) bool {
	if m.endpoint {
		return port == contract.MetricsPort || port == contract.HealthPort || m.service.PlaintextTargetPorts.Contains(port)
	}
	return m.service.PlaintextPorts.Contains(port)
}
