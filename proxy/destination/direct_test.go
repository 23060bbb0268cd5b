package destination_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/destination"
)

// directMesh is testMesh with workloads that have no redirect rules: those of db on 5432, and of pair on 80.
func directMesh(changes ...func(*meshmap.Map)) *meshmap.Map {
	return testMesh(append([]func(*meshmap.Map){func(m *meshmap.Map) {
		m.Services[2].DirectPorts = netset.PortsOf(5432)
		m.Services = append(m.Services, meshmap.Service{Host: "pair.prod.svc.cluster.local", ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.9")},
			Identities: []string{pattern("db")}, DirectPorts: netset.PortsOf(80)})
	}}, changes...)...)
}

func name(service string, endpoint bool) destination.Name {
	return destination.Name{Service: service, Endpoint: endpoint, Confirmed: true}
}

// TestDirect: at an endpoint of a workload without redirect rules the proxy's own port is dialed, for the ports that
// pass it, and never at a clusterIP.
func TestDirect(t *testing.T) {
	forward := destination.Name{Service: "db.prod", Confirmed: true, Forward: true}
	member := destination.Name{Service: "meshless-members-test.prod", Confirmed: true, Endpoint: true}
	remembered := name("db.prod", true)
	remembered.Remembered = true
	own := func(m *meshmap.Map) { m.Package, m.Namespace = "test", "prod" }
	for _, c := range []struct {
		what   string
		dst    string
		names  []destination.Name
		dialed destination.Name
		want   bool
	}{
		{"an endpoint", "10.1.1.1:5432", []destination.Name{name("db.prod", true)}, destination.Name{}, true},
		{"another port of it", "10.1.1.1:5433", []destination.Name{name("db.prod", true)}, destination.Name{}, false},
		{"the direct port itself", "10.1.1.1:27432", []destination.Name{name("db.prod", true)}, destination.Name{}, false},
		{"an endpoint a short while ago", "10.1.1.1:5432", []destination.Name{remembered}, destination.Name{}, true},
		{"a clusterIP by its name", "10.96.0.7:5432", []destination.Name{name("db.prod", false)}, destination.Name{}, false},
		{"a clusterIP of the map", "10.96.0.9:80", []destination.Name{name("pair.prod", false)}, destination.Name{}, false},
		{"a clusterIP of the map, listed as an endpoint", "10.96.0.9:80", []destination.Name{name("pair.prod", true)}, destination.Name{}, false},
		{"behind a second Service with other ports", "10.1.1.1:5432", []destination.Name{name("pair.prod", true), name("db.prod", true)}, destination.Name{}, true},
		{"found by its Service alone", "10.1.1.1:5432", []destination.Name{forward}, destination.Name{}, false},
		{"found by its Service, and a pod", "10.1.1.1:5432", []destination.Name{forward, member}, destination.Name{}, true},
		{"another Service's endpoint", "10.1.1.1:5432", []destination.Name{name("canary.prod", true)}, destination.Name{}, false},
		{"a pod by whose name the app has come", "10.1.1.1:5432", nil, name("db.prod", true), true},
		{"a Service by whose name the app has come", "10.1.1.1:5432", nil, name("db.prod", false), false},
		{"both", "10.1.1.1:5432", []destination.Name{name("db.prod", true)}, name("db.prod", false), true},
		{"a clusterIP of the map, by the name of a pod", "10.96.0.9:80", nil, name("pair.prod", true), false},
	} {
		d := destination.NewMap(directMesh(own)).Decide(netip.MustParseAddrPort(c.dst), destination.Lookup{Names: c.names, Dialed: c.dialed})
		if d.Direct != c.want || d.Kind != destination.Mesh {
			t.Errorf("%s: %+v, want direct %t", c.what, d, c.want)
		}
	}
}

// TestAttackDialed: the name by which the app has come is a claim like any other. Wherever DNS leads it, and whatever
// DNS says of the address there, who answers must be of that Service, and nothing leaves in plaintext.
func TestAttackDialed(t *testing.T) {
	db, web := spiffeid.RequireFromString(pattern("db")), spiffeid.RequireFromString(pattern("web"))
	stranger := spiffeid.RequireFromString("spiffe://cluster.local/ns/data/deployment/x")
	for _, c := range []struct {
		what   string
		dst    string
		dialed string
		lookup destination.Lookup
		kind   destination.Kind
		by     [3]destination.Acceptance // of db, web and the stranger
	}{
		{"an address without a name", "10.9.9.9:5432", "db.prod", destination.Lookup{}, destination.Mesh, [3]destination.Acceptance{"map", "", ""}},
		{"one on the Internet", "6.6.6.6:5432", "db.prod", destination.Lookup{Remote: true, Err: errors.New("no answer")}, destination.Mesh, [3]destination.Acceptance{"map", "", ""}},
		{"one with a foreign name, both ways", "10.9.9.9:5432", "db.prod", destination.Lookup{Names: []destination.Name{name("evil.far", true)}},
			destination.Mesh, [3]destination.Acceptance{"map", "", ""}},
		{"the loopback address", "127.0.0.1:5432", "db.prod", destination.Lookup{Remote: true}, destination.Mesh, [3]destination.Acceptance{"map", "", ""}},
		{"a name server", "10.96.0.10:5432", "db.prod", destination.Lookup{NameServer: true}, destination.Mesh, [3]destination.Acceptance{"map", "", ""}},
		{"another Service of the mesh", "10.96.0.1:80", "db.prod", destination.Lookup{Names: []destination.Name{name("web.prod", false)}}, destination.Mesh, [3]destination.Acceptance{}},
		{"another Service's port that takes plaintext", "10.96.0.1:81", "db.prod", destination.Lookup{Names: []destination.Name{name("web.prod", false)}},
			destination.Mesh, [3]destination.Acceptance{"map", "", ""}},
		{"a port of its own that takes plaintext, unconfirmed", "10.9.9.9:81", "web.prod", destination.Lookup{}, destination.Mesh, [3]destination.Acceptance{"", "map", ""}},
		{"a port of its own that takes plaintext", "10.96.0.1:81", "web.prod", destination.Lookup{Names: []destination.Name{name("web.prod", false)}},
			destination.Plaintext, [3]destination.Acceptance{}},
		{"a Service that the map does not list", "10.9.9.9:80", "x.data", destination.Lookup{}, destination.Mesh, [3]destination.Acceptance{"", "", "namespace"}},
		{"a pod that may not be of the mesh", "10.9.9.9:80", "x.data", destination.Lookup{Doubt: "DNS names no pods"}, destination.Mesh, [3]destination.Acceptance{"", "", "namespace"}},
		{"a name that is not confirmed", "10.9.9.9:80", "db.prod", destination.Lookup{Names: []destination.Name{{Service: "db.prod"}}}, destination.Refused, [3]destination.Acceptance{}},
		{"no answer of DNS", "10.9.9.9:80", "db.prod", destination.Lookup{Err: errors.New("no answer")}, destination.Refused, [3]destination.Acceptance{}},
	} {
		c.lookup.Dialed = destination.Name{Service: c.dialed}
		d := destination.NewMap(directMesh()).Decide(netip.MustParseAddrPort(c.dst), c.lookup)
		by := [3]destination.Acceptance{d.Accepts(db, nil), d.Accepts(web, nil), d.Accepts(stranger, nil)}
		if d.Kind != c.kind || by != c.by {
			t.Errorf("%s: %+v, accepts %q", c.what, d, by)
		}
	}
}

// TestDialedIntoFederation: no server belongs to a Service of ours and to another trust domain.
func TestDialedIntoFederation(t *testing.T) {
	m := directMesh(func(m *meshmap.Map) {
		m.Federation = []meshmap.Federation{{TrustDomain: "other.example", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}}
	})
	l := destination.Lookup{Dialed: destination.Name{Service: "db.prod"}}
	if d := destination.NewMap(m).Decide(netip.MustParseAddrPort("10.9.9.9:5432"), l); d.Kind != destination.Refused {
		t.Errorf("%+v", d)
	}
}

// FuzzDialed: an app that has come by a name of the mesh gets mutual TLS or nothing, but for plaintext that it would
// have got without the name. Whoever may answer might have answered without it, or at no mesh destination.
func FuzzDialed(f *testing.F) {
	f.Add("db.prod", "web.prod", true, true, false, uint16(81), byte(0))
	f.Add("web.prod", "evil.far", true, false, true, uint16(5432), byte(3))
	f.Fuzz(func(t *testing.T, dialed, named string, confirmed, endpoint, remote bool, port uint16, last byte) {
		if dialed == "" {
			return
		}
		m := destination.NewMap(directMesh())
		dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 0, last}), port)
		l := destination.Lookup{Remote: remote, Names: []destination.Name{{Service: named, Confirmed: confirmed, Endpoint: endpoint}}}
		without := m.Decide(dst, l)
		l.Dialed = destination.Name{Service: dialed, Endpoint: endpoint}
		d := m.Decide(dst, l)
		switch {
		case d.Kind != destination.Mesh && d.Kind != destination.Refused && (d.Kind != destination.Plaintext || without.Kind != destination.Plaintext):
			t.Fatalf("%+v, and without the name %+v", d, without)
		case d.Direct && d.Kind != destination.Mesh, d.Kind == destination.Mesh && len(d.Claims) == 0:
			t.Fatalf("%+v", d)
		}
		for _, id := range []string{pattern("db"), pattern("web"), pattern("x")} {
			id := spiffeid.RequireFromString(id)
			if d.Accepts(id, nil) != "" && without.Kind == destination.Mesh && without.Accepts(id, nil) == "" {
				t.Fatalf("%s is accepted by the name alone", id)
			}
		}
	})
}
