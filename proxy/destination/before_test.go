package destination_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/destination"
)

// editionBefore decides as the edition did whose maps listed all Services of the mesh (1b763be): the law is that
// whoever controls names gains nothing that it denied him.
type editionBefore map[string]meshmap.Service

func (services editionBefore) decide(port uint16, l destination.Lookup) destination.Kind {
	var identities []string
	found, plaintext := false, true
	for _, n := range l.Names {
		s, ok := services[n.Service]
		switch {
		case !ok:
			continue
		case !n.Confirmed:
			return destination.Refused
		case !found:
			identities = slices.Clone(s.Identities)
		}
		found = true
		identities = slices.DeleteFunc(identities, func(id string) bool { return !slices.Contains(s.Identities, id) })
		service, target := s.PlaintextPorts.Contains(port), port == 15020 || s.PlaintextTargetPorts.Contains(port)
		plaintext = plaintext && (service || n.Endpoint) && (target || !n.Endpoint && !n.Forward)
	}
	switch uncertain := l.Err != nil || l.Uncertain != nil; {
	case found && plaintext && !uncertain:
		return destination.Plaintext
	case found && !plaintext && len(identities) > 0:
		return destination.Mesh
	case found, uncertain:
		return destination.Refused
	}
	return destination.Unknown
}

// TestEditionBefore: no two names at one address lead closer to plaintext than before.
func TestEditionBefore(t *testing.T) {
	before := editionBefore{"x.data": {Identities: []string{"x"}}}
	mesh := wholeMesh(func(m *meshmap.Map) {
		m.OpenPodPorts = map[string]netset.Ports{"data": netset.PortsOf(9187, 8080), "prod": netset.PortsOf(8081, 8080)}
		m.Services = append(m.Services, meshmap.Service{Host: "z.prod.svc.cluster.local", Identities: []string{pattern("z")}})
		for _, s := range m.Services {
			before[s.Host[:len(s.Host)-len(".svc.cluster.local")]] = s
		}
	})
	var names []destination.Name
	for _, s := range []string{"web.prod", "z.prod", "db.data", "x.data", "undeclared.prod", "undeclared.data", "old.prod", "old.data", "kubernetes.default", "x.evil", "alias.evil",
		members + ".prod", members + ".data", "meshless-members-abcde.evil", "meshless-members-abcde.prod"} {
		n := destination.Name{Service: s, Alias: s == "alias.evil"}
		endpoint := n
		endpoint.Endpoint = true
		names = append(names, n, endpoint)
		n.Confirmed, endpoint.Confirmed = true, true
		forward := n
		forward.Forward = true
		names = append(names, n, endpoint, forward)
	}
	rank := map[destination.Kind]int{destination.TryMesh: 1, destination.Unknown: 2, destination.Plaintext: 3}
	unanswered := errors.New("no answer")
	for _, shared := range []bool{false, true} {
		mesh.SharedCA = shared
		m := destination.NewMap(mesh)
		for i, a := range names {
			for _, b := range names[i:] {
				pair := []destination.Name{a, b}
				for _, l := range []destination.Lookup{{Names: pair}, {Names: pair, Err: unanswered}, {Names: pair, Uncertain: unanswered}, {Names: pair, Doubt: "doubt"}} {
					for _, port := range []uint16{80, 81, 8080, 8081, 9187, 15020} {
						was, is := before.decide(port, l), m.Decide(netip.AddrPortFrom(netip.MustParseAddr("10.1.2.3"), port), l)
						if rank[is.Kind] > rank[was] && !meant(is.Kind, pair, port) {
							t.Errorf("%+v on port %d: %+v, and before %s", l, port, is, was)
						}
					}
				}
			}
		}
	}
}

// meant tells whether two names lead closer to plaintext on purpose: the metrics of a pod of the package, where
// outbound.unknown may be Deny; mutual TLS first at what may be a pod outside of the mesh behind two Services; and the
// address of the API server, which is no other's.
func meant(kind destination.Kind, pair []destination.Name, port uint16) bool {
	has := func(services ...string) bool {
		return slices.ContainsFunc(pair, func(n destination.Name) bool { return slices.Contains(services, n.Service) })
	}
	switch kind {
	case destination.Plaintext:
		return port == 15020 && has(members+".prod", members+".data")
	case destination.TryMesh:
		return has("old.prod", "old.data", "kubernetes.default") && !slices.ContainsFunc(pair, func(n destination.Name) bool { return n.Service == "x.data" && !n.Endpoint })
	}
	return slices.ContainsFunc(pair, func(n destination.Name) bool { return n.Service == "kubernetes.default" && !n.Endpoint })
}
