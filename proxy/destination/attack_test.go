package destination_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

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

// TestMembersServiceOfAnother: where packages share an authority, whoever makes a members Service neither opens the
// ports of metrics and health of his servers, with outbound.unknown Deny, nor cuts others off from pods and Services of
// our package that he lists there.
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

// TestListedBehindWhatOptedOut: whoever lists a pod as an endpoint of a Service that has opted out on a port does not
// make that port of the pod plaintext, be it a pod of the Service's namespace or of another.
func TestListedBehindWhatOptedOut(t *testing.T) {
	z := startZone(t, flatten(pod("10.1.0.1", "db.data", members+".data", "x.data"), pod("10.1.0.2", "db.data", members+".default"), pod("10.1.0.3", "db.data", members+".prod"),
		pod("10.1.0.4", "db.data", "x.default"), pod("10.1.0.5", "web.prod", members+".data"), pod("10.1.0.6", "db.data", members+".data"))...)
	a := newAsker(t, z)
	for dst, want := range map[string]destination.Kind{
		"10.1.0.1:9187": destination.Mesh, "10.1.0.1:15020": destination.Plaintext, "10.1.0.2:9187": destination.Refused, "10.1.0.3:9187": destination.Refused,
		"10.1.0.4:9187": destination.Mesh, "10.1.0.5:8081": destination.Refused, "10.1.0.6:9187": destination.Plaintext,
	} {
		if d := a.ask(wholeMesh(), dst); d.Kind != want {
			t.Errorf("%s is %+v, want %s", dst, d, want)
		}
	}
}

// TestSlowAlias: an address that was of another package's Service a short while ago stays one while DNS does not answer
// for the alias. Away from the cluster's networks no answer would mean outside the mesh.
func TestSlowAlias(t *testing.T) {
	shared := wholeMesh(func(m *meshmap.Map) { m.SharedCA = true })
	for _, addr := range []string{"10.96.1.4", "9.9.9.9"} {
		z := startZone(t, service(addr, "x.evil")...)
		z.add(t, "meshless-alias-x.evil.svc.cluster.local. 5 IN A "+addr)
		a := newAsker(t, z)
		a.want(shared, addr+":80", destination.Mesh)
		z.behave(func() { z.rcode["meshless-alias-x.evil.svc.cluster.local."] = dns.RcodeServerFailure })
		a.after(2 * time.Minute)
		a.want(shared, addr+":80", destination.Mesh)
		z.behave(func() { clear(z.rcode) })
		a.after(2 * time.Second)
		a.want(shared, addr+":80", destination.Mesh)
		z.behave(func() { z.mute = "meshless-alias-x.evil.svc.cluster.local." })
		a.after(2 * time.Minute)
		a.want(shared, addr+":80", destination.Mesh)
	}
}

// TestDeniedAlias: DNS that denies the alias ends that at once.
func TestDeniedAlias(t *testing.T) {
	shared := wholeMesh(func(m *meshmap.Map) { m.SharedCA = true })
	z := startZone(t, append(service("10.96.1.4", "x.evil"), "meshless-alias-x.evil.svc.cluster.local. 5 IN A 10.96.1.4")...)
	a := newAsker(t, z)
	a.want(shared, "10.96.1.4:80", destination.Mesh)
	z.remove("meshless-alias-x.evil.svc.cluster.local. A")
	a.after(2 * time.Minute)
	a.want(shared, "10.96.1.4:80", destination.Unknown)
}
