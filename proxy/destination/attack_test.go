package destination_test

import (
	"net/netip"
	"testing"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/destination"
)

// TestListedBehindWhatLeadsOut: whoever lists a server of the mesh as an endpoint of a Service that leads out of it, of
// which the API server's is one, makes nothing plaintext. A DNS that names endpoints with host names alone (CoreDNS
// 1.12.0) gives the server no name of a members Service.
func TestListedBehindWhatLeadsOut(t *testing.T) {
	z := startZone(t, flatten(pod("10.1.0.1", "x.data", "old.data"), pod("10.1.0.2", "x.data", "old.prod"), pod("10.1.0.3", "x.data", "kubernetes.default"),
		pod("10.1.0.4", "x.data", members+".data", "old.data"), pod("10.1.0.5", "old.data", "kubernetes.default"))...)
	a := newAsker(t, z)
	for _, c := range []struct {
		dst  string
		kind destination.Kind
		who  string
	}{
		{"10.1.0.1:80", destination.TryMesh, "- - - namespace leaf -"}, {"10.1.0.2:80", destination.TryMesh, "- - - namespace leaf -"},
		{"10.1.0.3:80", destination.TryMesh, "- - - namespace leaf -"}, {"10.1.0.4:80", destination.Mesh, "- - - namespace namespace -"},
		{"10.1.0.5:80", destination.Unknown, "- - - - - -"},
	} {
		if d := a.ask(wholeMesh(), c.dst); d.Kind != c.kind || who(d) != c.who {
			t.Errorf("%s is %+v for %s, want %s for %s", c.dst, d, who(d), c.kind, c.who)
		}
	}
}

// TestNameServersStayOut: the addresses that no mesh can have stay outside, whatever other name they have.
func TestNameServersStayOut(t *testing.T) {
	server := destination.Lookup{NameServer: true, Names: []destination.Name{{Service: "coredns.kube-system", Confirmed: true}}}
	api := destination.Lookup{Names: []destination.Name{{Service: "x.data", Confirmed: true, Endpoint: true}, {Service: "kubernetes.default", Confirmed: true}}}
	for _, l := range []destination.Lookup{server, api} {
		if d := destination.NewMap(wholeMesh()).Decide(netip.MustParseAddrPort("10.96.0.10:53"), l); d.Kind != destination.Unknown {
			t.Errorf("%+v is %+v", l, d)
		}
	}
}

// TestOpenPodPorts: a port that some pods of a namespace leave out of the mesh is tried first at pods of which nothing
// more is known. A Service that the map does not list for the port speaks against it: whoever is on the path must not
// get plaintext there by answering the trial.
func TestOpenPodPorts(t *testing.T) {
	open := wholeMesh(func(m *meshmap.Map) {
		m.OpenPodPorts = map[string]netset.Ports{"data": netset.PortsOf(8080), "prod": netset.PortsOf(8080)}
	})
	z := startZone(t, flatten(pod("10.1.0.1", members+".data"), pod("10.1.0.2", members+".data", "x.data"), pod("10.1.0.3", members+".prod", "web.prod"),
		pod("10.1.0.4", members+".prod"), pod("10.1.0.5", members+".prod", "x.prod"))...)
	a := newAsker(t, z)
	for dst, want := range map[string]destination.Kind{
		"10.1.0.1:8080": destination.TryMesh, "10.1.0.1:80": destination.Mesh, "10.1.0.2:8080": destination.Mesh, "10.1.0.3:8080": destination.Mesh,
		"10.1.0.4:8080": destination.TryMesh, "10.1.0.5:8080": destination.TryMesh,
	} {
		if d := a.ask(open, dst); d.Kind != want {
			t.Errorf("%s is %+v, want %s", dst, d, want)
		}
	}
}

// TestMembersServiceOfAnother: whoever makes a members Service in a namespace where packages share an authority neither
// opens the ports of metrics and health of his servers where outbound.unknown is Deny, nor cuts others off from pods
// and Services of our package that he lists there.
func TestMembersServiceOfAnother(t *testing.T) {
	shared := wholeMesh(func(m *meshmap.Map) { m.SharedCA = true })
	const evil = "meshless-members-abcde.evil"
	z := startZone(t, flatten(pod("10.1.0.1", evil), pod("10.1.0.2", members+".prod", evil), pod("10.1.0.3", "web.prod", evil), pod("10.1.0.4", members+".data", "x.data", evil),
		pod("10.1.0.5", members+".prod"), pod("10.1.0.6", members+".evil"))...)
	a := newAsker(t, z)
	for _, c := range []struct {
		dst  string
		kind destination.Kind
		who  string
	}{
		{"10.1.0.1:80", destination.Mesh, "- - - - - namespace"}, {"10.1.0.1:15020", destination.Unknown, "- - - - - -"}, {"10.1.0.6:15021", destination.Unknown, "- - - - - -"},
		{"10.1.0.2:80", destination.Mesh, "namespace namespace namespace - - -"}, {"10.1.0.2:15020", destination.Plaintext, "- - - - - -"},
		{"10.1.0.3:80", destination.Mesh, "map leaf - - - -"}, {"10.1.0.4:80", destination.Mesh, "- - - namespace namespace -"},
		{"10.1.0.5:15021", destination.Plaintext, "- - - - - -"},
	} {
		if d := a.ask(shared, c.dst); d.Kind != c.kind || who(d) != c.who {
			t.Errorf("%s is %+v for %s, want %s for %s", c.dst, d, who(d), c.kind, c.who)
		}
	}
}
