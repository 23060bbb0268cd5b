package destination

import (
	"net/netip"
	"slices"
	"strings"
)

// direct tells whether the address is that of a pod which has no redirect rules, and the port one that passes its
// proxy. Behind a clusterIP the Service leads to the proxy itself.
func (m *Map) direct(dst netip.AddrPort, e evidence) bool {
	return len(m.byIP[plain(dst.Addr())]) == 0 && slices.ContainsFunc(e.matches, func(o match) bool {
		return (o.endpoint || o.either && e.pod) && o.service.DirectPorts.Contains(dst.Port())
	})
}

// asDialed is d for an app that has come by the name of a Service of the mesh: who answers must be acceptable to that
// Service, too. Whatever DNS says, such a connection is not made in plaintext, unless DNS confirms the name and the
// Service takes plaintext on the port.
func (m *Map) asDialed(dst netip.AddrPort, l Lookup, d Destination) Destination {
	addr := plain(dst.Addr())
	switch {
	case d.Kind == Refused, d.Kind == Plaintext && m.confirms(l):
		return d
	case m.federated(addr) != nil:
		return m.unlessFederated(addr, Destination{Host: m.host(l.Dialed)})
	}
	anybody := func(c Claim) bool { return c.Open && c.Namespace == "" } // the name says more
	dialed := m.meet(Mesh, append(slices.DeleteFunc(slices.Clone(d.Claims), anybody), m.claimOf(l.Dialed)))
	service := m.service(l.Dialed.Service)
	atPod := l.Dialed.Endpoint && service != nil && service.DirectPorts.Contains(dst.Port()) && len(m.byIP[addr]) == 0
	dialed.Direct = dialed.Kind == Mesh && (d.Direct || atPod)
	return dialed
}

// confirms tells whether DNS gives the address the name by which the app has come, and the map knows its Service.
func (m *Map) confirms(l Lookup) bool {
	return slices.ContainsFunc(l.Names, func(n Name) bool { return n.Confirmed && n.Service == l.Dialed.Service && m.classOf(n) >= named })
}

// claimOf is that of a Service of the mesh, whether the map lists it or not.
func (m *Map) claimOf(n Name) Claim {
	_, namespace, _ := strings.Cut(n.Service, ".")
	if s := m.service(n.Service); s != nil {
		return Claim{Host: s.Host, Namespace: namespace, Identities: s.Identities}
	}
	return Claim{Host: m.host(n), Namespace: namespace, Open: true}
}
