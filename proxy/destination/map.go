package destination

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Map answers from the mesh map and from lookups. It is pure and immutable.
type Map struct {
	mesh       *meshmap.Map
	byIP       map[netip.Addr][]*meshmap.Service
	hosts      map[string]*meshmap.Service
	outside    map[string]bool // <service>.<namespace>
	namespaces map[string]bool // the other ones of the package
	// the <service>.<namespace> of each Service, and of the members Services of the package's namespaces, the own one
	// first
	services []string
	members  string // the members Service of the own namespace; empty without a package
}

// NewMap indexes the Services of mesh.
func NewMap(mesh *meshmap.Map) *Map {
	m := &Map{mesh: mesh, byIP: map[netip.Addr][]*meshmap.Service{}, hosts: map[string]*meshmap.Service{}, outside: map[string]bool{}, namespaces: map[string]bool{}}
	if mesh.Package != "" && mesh.Namespace != "" {
		m.members = api.MembersName(mesh.Package) + "." + mesh.Namespace
		m.services = append(m.services, m.members)
		for _, namespace := range mesh.Namespaces {
			m.services = append(m.services, api.MembersName(mesh.Package)+"."+namespace)
		}
	}
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
	for _, service := range mesh.Outside {
		m.outside[service] = true
	}
	for _, namespace := range mesh.Namespaces {
		m.namespaces[namespace] = true
	}
	return m
}

// service is the Service of the mesh with this <service>.<namespace>, or nil.
func (m *Map) service(name string) *meshmap.Service {
	return m.hosts[name+".svc."+strings.ToLower(m.mesh.ClusterDomain)]
}

// class is what the name of a Service says about the pods behind it.
type class int

const (
	foreign  class = iota // nothing of the mesh
	excepted              // the map says that it leads out of the mesh, though its namespace is in it
	unproved              // a Service of our own namespace that the map does not know, or pods of another mesh perhaps
	named                 // in the mesh: of a namespace of the package, or by its alias
	member                // a members Service: the address is a pod's of the mesh
	listed                // the map lists who may answer
)

// classOf tells what n says. The API server's Service is never in a mesh. A members Service elsewhere is of a package
// that has our authority only where that is shared: else anybody who makes such a Service would cut others off.
func (m *Map) classOf(n Name) class {
	service, namespace, _ := strings.Cut(n.Service, ".")
	switch {
	case m.service(n.Service) != nil:
		return listed
	case isMembers(service) && (m.mesh.SharedCA || namespace == m.mesh.Namespace || m.namespaces[namespace]):
		return member
	case isMembers(service):
		return unproved
	case m.outside[n.Service], n.Service == probeService:
		return excepted
	case m.namespaces[namespace], m.mesh.SharedCA && n.Alias:
		return named
	case namespace == m.mesh.Namespace, n.Ours:
		return unproved
	}
	return foreign
}

// nameless tells whether l holds no name that says something: none of the mesh, and none that is confirmed.
func (m *Map) nameless(l Lookup) bool {
	return !m.knows(l) && !slices.ContainsFunc(l.Names, func(n Name) bool { return n.Confirmed })
}

// knows tells whether l holds a name of the mesh.
func (m *Map) knows(l Lookup) bool {
	return slices.ContainsFunc(l.Names, func(n Name) bool { return m.classOf(n) >= named })
}

// match is a Service of the map that stands behind an address, as a manifest claims or as DNS confirms.
type match struct {
	service *meshmap.Service
	// by a clusterIP of the map: a manifest can claim the address of another team's Service
	claimed  bool
	endpoint bool
	either   bool // endpoint or clusterIP
}

// evidence is what is known of one address, by its class.
type evidence struct {
	matches   []match // listed
	pods      []Claim // member
	ours      bool    // of pods: they are of our own package
	pod       bool    // of pods: it is an endpoint's address for certain
	named     []Claim
	service   bool // of named: it may be a clusterIP
	unproved  []Claim
	excepted  bool
	never     bool // excepted, and no mesh can have the address
	foreign   bool
	elsewhere []Claim // foreign, where the address is an endpoint's
	uncertain error
	refuted   string // a host of the mesh whose name is not confirmed
}

// claimants are the Services of the map that claim an address. Several may share that of a load balancer, each with
// ports of its own: those with the port count then, and all where none has it.
func (m *Map) claimants(dst netip.AddrPort) []*meshmap.Service {
	all := m.byIP[plain(dst.Addr())]
	if len(all) < 2 {
		return all
	}
	var having []*meshmap.Service
	for _, s := range all {
		if s.Ports.Contains(dst.Port()) {
			having = append(having, s)
		}
	}
	if len(having) == 0 {
		return all
	}
	return having
}

// weigh sorts the clusterIPs of the map and the names of l.
func (m *Map) weigh(dst netip.AddrPort, l Lookup) evidence {
	e := evidence{uncertain: l.Uncertain, excepted: l.NameServer, never: l.NameServer, ours: m.namesOurs(l)}
	for _, s := range m.claimants(dst) {
		e.matches = append(e.matches, match{service: s, claimed: true})
	}
	for _, name := range l.Names {
		class := m.classOf(name)
		switch {
		case name.Remembered && class < named:
			e.uncertain = fmt.Errorf("%s was an address of %s, which has left the mesh map, and has no name now", plain(dst.Addr()), name.Service)
		case !name.Confirmed && class < unproved: // anybody may say so
		case !name.Confirmed:
			e.refuted = cmp.Or(e.refuted, m.host(name))
		case class == member && e.ours && !m.isOurs(name): // a pod has one package, and this one is ours
		default:
			m.add(&e, name, class)
		}
	}
	return e
}

// namesOurs tells whether DNS confirms that an address is of our own package: a pod of it, or behind a Service that the
// map lists. Who makes a members Service elsewhere, and lists the address behind it, cuts nobody off from that.
func (m *Map) namesOurs(l Lookup) bool {
	return slices.ContainsFunc(l.Names, func(n Name) bool { return n.Confirmed && (m.isOurs(n) || m.classOf(n) == listed) })
}

// isOurs tells whether a name is that of a pod of our own package.
func (m *Map) isOurs(n Name) bool {
	service, namespace, _ := strings.Cut(n.Service, ".")
	return service == api.MembersName(m.mesh.Package) && (namespace == m.mesh.Namespace || m.namespaces[namespace])
}

func (m *Map) host(name Name) string {
	return name.Service + ".svc." + strings.ToLower(m.mesh.ClusterDomain)
}

// add adds a name that is confirmed.
func (m *Map) add(e *evidence, name Name, class class) {
	_, namespace, _ := strings.Cut(name.Service, ".")
	claim := Claim{Namespace: namespace, Open: true}
	if !isMembers(name.Service) {
		claim.Host = m.host(name)
	}
	switch class {
	case listed:
		e.matches = append(e.matches, match{service: m.service(name.Service), endpoint: name.Endpoint, either: name.Forward})
	case member:
		e.pods, e.pod = append(e.pods, claim), e.pod || name.Endpoint || name.Forward
	case named:
		e.named, e.service = append(e.named, claim), e.service || !name.Endpoint
	case unproved:
		e.unproved = append(e.unproved, claim)
	case excepted:
		e.excepted = true
		e.never = e.never || name.Service == probeService && !name.Endpoint // anybody's pod can be listed as an endpoint
	default:
		e.foreign = true
		if name.Endpoint {
			e.elsewhere = append(e.elsewhere, claim)
		}
	}
}

// headlessElsewhere tells whether all that is known of an address is that it is an endpoint's of foreign Services,
// where other packages share our authority. A headless Service that no render knows, as an operator makes it, has no
// alias: the members Service would say that the pod is of the mesh, if DNS named pods by it.
func (m *Map) headlessElsewhere(l Lookup) bool {
	return m.mesh.SharedCA && len(l.Names) > 0 && !slices.ContainsFunc(l.Names, func(n Name) bool { return !n.Confirmed || !n.Endpoint || m.classOf(n) != foreign })
}

// Decide answers for one destination. The clusterIPs of the map and the names that DNS confirms count together: who
// answers must be acceptable to all that are listed, and be of the namespace of which the address is a pod. Names that
// say less count where there are none of these. meshCIDRs and federations come next. The absence of an answer never
// turns encryption off. A name of the mesh that is not confirmed refuses. A DNS that does not answer refuses too,
// unless clusterIPs or earlier names lead to mutual TLS; a DNS whose denial proves nothing refuses unless meshCIDRs
// lead there as well. An address in a network of a federated trust domain is that domain's: if a Service of ours is
// found there too, the connection is refused, since no server belongs to both.
func (m *Map) Decide(dst netip.AddrPort, l Lookup) Destination {
	d := m.decide(dst, l)
	if l.Dialed.Service == "" {
		return d
	}
	return m.asDialed(dst, l, d)
}

func (m *Map) decide(dst netip.AddrPort, l Lookup) Destination {
	addr := plain(dst.Addr())
	e := m.weigh(dst, l)
	switch {
	case e.refuted != "":
		return Destination{Kind: Refused, Host: e.refuted, Reason: fmt.Sprintf("dns: %s names itself %s, which does not resolve to it", addr, e.refuted)}
	case len(e.matches)+len(e.pods) > 0:
		return m.within(dst, l, e)
	case len(e.named) > 0 && !e.never:
		return m.unlessFederated(addr, m.meet(e.kindOfNamed(l), e.named))
	case l.Err != nil && (!l.Remote || netset.Prefixes(m.mesh.Outbound.ClusterCIDRs).Contains(addr)):
		return Destination{Kind: Refused, Reason: "dns: " + l.Err.Error()}
	}
	federation := m.federated(addr)
	switch anybody := []Claim{{Open: true}}; {
	case netset.Prefixes(m.mesh.Outbound.MeshCIDRs).Contains(addr):
		return m.meet(Mesh, anybody)
	case federation != nil:
		return Destination{Kind: Mesh, Claims: []Claim{{Identities: federation.Identities, Open: len(federation.Identities) == 0}}, TrustDomain: federation.TrustDomain}
	case e.uncertain != nil:
		return Destination{Kind: Refused, Reason: "dns: " + e.uncertain.Error()}
	case e.excepted:
	case len(e.unproved) > 0:
		return m.meet(TryMesh, e.unproved)
	case l.Err != nil || l.Doubt == "":
	case m.headlessElsewhere(l):
		return m.meet(TryMesh, e.elsewhere)
	case !e.foreign:
		return m.meet(TryMesh, anybody)
	}
	return Destination{Kind: Unknown}
}

// kindOfNamed is how the address of a Service of the package is met that the map does not list. A pod may have another
// name that leads out of the mesh, since it is behind both, or since somebody has listed it there. The server shows
// which. A clusterIP belongs to one Service.
func (e evidence) kindOfNamed(l Lookup) Kind {
	if e.excepted && !e.service && cmp.Or(l.Err, e.uncertain) == nil {
		return TryMesh
	}
	return Mesh
}

// within answers for an address of the mesh.
func (m *Map) within(dst netip.AddrPort, l Lookup, e evidence) Destination {
	addr := plain(dst.Addr())
	claims := slices.Clone(e.pods)
	for _, match := range e.matches {
		_, namespace, _ := strings.Cut(strings.TrimSuffix(match.service.Host, ".svc."+m.mesh.ClusterDomain), ".")
		claims = append(claims, Claim{Host: match.service.Host, Namespace: namespace, Identities: match.service.Identities})
	}
	kind := Mesh
	// a Service that the map would list, did its pods leave out a port, speaks against that
	if len(e.matches)+len(e.named) == 0 && cmp.Or(l.Err, e.uncertain) == nil && m.openPodPort(e.pods, dst.Port()) {
		kind = TryMesh
	}
	d := m.unlessFederated(addr, m.meet(kind, claims))
	d.Direct = d.Kind == Mesh && m.direct(dst, e)
	if d.Kind == Refused && m.federated(addr) != nil || !e.plaintext(dst.Port()) || e.contradicted(claims, dst.Port()) {
		return d
	}
	if why := noPlaintext(addr, e.matches, l.Err, e.uncertain); why != "" {
		return Destination{Kind: Refused, Host: d.Host, Reason: fmt.Sprintf("port %d takes plaintext, which %s", dst.Port(), why)}
	}
	if len(e.matches) == 0 && !e.ours { // whoever makes a members Service elsewhere must not open a way out of the mesh
		return Destination{Kind: Unknown, Host: d.Host}
	}
	return Destination{Kind: Plaintext, Host: d.Host}
}

// openPodPort tells whether the package has pods, in the namespace of which the address is a pod, that take the port
// without their proxy. Whether this is one of them shows when mutual TLS is tried.
func (m *Map) openPodPort(pods []Claim, port uint16) bool {
	return slices.ContainsFunc(pods, func(c Claim) bool { return m.mesh.OpenPodPorts[c.Namespace].Contains(port) })
}

// meet is a destination where who answers must meet all claims, once each.
func (m *Map) meet(kind Kind, claims []Claim) Destination {
	d := Destination{Kind: kind, TrustDomain: m.mesh.TrustDomain}
	var hosts []string
	for _, c := range claims {
		if slices.ContainsFunc(d.Claims, func(o Claim) bool { return o.Host == c.Host && o.Namespace == c.Namespace }) {
			continue
		}
		d.Claims = append(d.Claims, c)
		if c.Host != "" {
			hosts = append(hosts, c.Host)
		}
	}
	slices.Sort(hosts)
	if d.Host = strings.Join(hosts, ","); len(claims) > 0 && d.Host == "" && claims[0].Namespace != "" {
		d.Host = "a pod of namespace " + claims[0].Namespace
	}
	if len(d.Claims) > 1 && !possible(d.Claims) {
		return Destination{Kind: Refused, Host: d.Host, Reason: "no identity may answer for all Services of this address"}
	}
	return d
}

// unlessFederated refuses d where the address is in the networks of a federated trust domain.
func (m *Map) unlessFederated(addr netip.Addr, d Destination) Destination {
	if f := m.federated(addr); f != nil {
		return Destination{Kind: Refused, Host: d.Host, Reason: fmt.Sprintf("%s is an address of %s, and in the networks of the trust domain %s: who may answer cannot be told", addr, d.Host, f.TrustDomain)}
	}
	return d
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
