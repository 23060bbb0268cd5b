package destination_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/destination"
)

func proxytestID(name string) spiffeid.ID { return spiffeid.RequireFromString(pattern(name)) }

const (
	webPod  = "10.1.1.1"
	webArpa = "1.1.1.10.in-addr.arpa."
	webName = "10-1-1-1.web.prod.svc.cluster.local."
)

// leave is what DNS does when the pod leaves its Service: it is not ready, or about to end.
func leave(z *zone) { z.remove(webArpa+" PTR", webName+" A") }

// TestPodLeavesItsService: it stays in the mesh for a while.
func TestPodLeavesItsService(t *testing.T) {
	z := startZone(t, ptr1, a1)
	a := newAsker(t, z)
	a.want(testMesh(), webPod+":80", destination.Mesh, "web", "web-canary")
	leave(z)
	for range 5 {
		a.after(2 * time.Minute)
		a.after(-time.Second)
		a.want(testMesh(), webPod+":80", destination.Mesh, "web", "web-canary")
		a.want(testMesh(), webPod+":8081", destination.Plaintext) // the pod's own choice, and all that is known agrees
	}
	changed := testMesh(func(m *meshmap.Map) { m.Services[0].Identities = []string{pattern("web-2")} })
	a.want(changed, webPod+":80", destination.Mesh, "web-2")
	left := testMesh(func(m *meshmap.Map) { m.Services = m.Services[1:] })
	if d := a.want(left, webPod+":80", destination.Refused); !strings.Contains(d.Reason, "left the mesh map") {
		t.Errorf("the reason is %q", d.Reason)
	}
	a.want(testMesh(func(m *meshmap.Map) { m.Services = nil }), webPod+":80", destination.Refused)
	anyMember := testMesh(func(m *meshmap.Map) {
		m.Services, m.Outbound.MeshCIDRs = nil, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	})
	if d := a.ask(anyMember, webPod+":80"); !answerOf(d).AnyMember {
		t.Errorf("with meshCIDRs it is %+v", d)
	}
	a.after(6 * time.Second) // 10 min and 1 s after the last confirmation
	a.want(testMesh(), webPod+":80", destination.Unknown)
}

// TestGraceNeedsDNSForPlaintext: it adds encryption, and nothing while DNS is dead or denies everything.
func TestGraceNeedsDNSForPlaintext(t *testing.T) {
	for name, breaks := range map[string]func(*zone){
		"dead":              func(z *zone) { z.behave(func() { z.silent = true }) },
		"denies everything": func(z *zone) { z.behave(func() { clear(z.records) }) },
		"no reverse zone":   func(z *zone) { z.remove(webArpa+" PTR", "250.0.96.10.in-addr.arpa. PTR") },
	} {
		t.Run(name, func(t *testing.T) {
			z := startZone(t, ptr1, a1)
			a := newAsker(t, z)
			a.want(testMesh(), webPod+":8081", destination.Plaintext)
			breaks(z)
			a.after(6 * time.Second)
			begun := time.Now()
			a.want(testMesh(), webPod+":80", destination.Mesh, "web", "web-canary")
			if took := time.Since(begun); took > 1900*time.Millisecond {
				t.Errorf("the wait for DNS was %v, want 1 s at most", took)
			}
			a.want(testMesh(), webPod+":8081", destination.Refused)
		})
	}
}

// TestAddressIsReused: a new name counts at once.
func TestAddressIsReused(t *testing.T) {
	const foreign = "10-1-1-1.foreign.elsewhere.svc.cluster.local."
	cases := map[string]struct {
		target string
		kind   destination.Kind
		names  []string
	}{
		"by another Service of the mesh":  {"10-1-1-1.db.prod.svc.cluster.local.", destination.Mesh, []string{"db"}},
		"by a Service outside of it":      {foreign, destination.Unknown, nil},
		"by a clusterIP of the mesh":      {"db.prod.svc.cluster.local.", destination.Mesh, []string{"db"}},
		"by a clusterIP outside of it":    {"foreign.elsewhere.svc.cluster.local.", destination.Unknown, nil},
		"by a name that is not confirmed": {"10-9-9-9.foreign.elsewhere.svc.cluster.local.", destination.Mesh, []string{"web", "web-canary"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			z := startZone(t, ptr1, a1)
			a := newAsker(t, z)
			a.want(testMesh(), webPod+":80", destination.Mesh, "web", "web-canary")
			leave(z)
			z.add(t, webArpa+" 5 IN PTR "+c.target)
			if !strings.Contains(c.target, "10-9-9-9") {
				z.add(t, c.target+" 5 IN A "+webPod)
			}
			a.after(5001 * time.Millisecond)
			a.want(testMesh(), webPod+":80", c.kind, c.names...)
			z.remove(webArpa + " PTR")
			z.remove(c.target + " A")
			a.after(5001 * time.Millisecond)
			a.want(testMesh(), webPod+":80", c.kind, c.names...) // the first Service is forgotten, not only covered
		})
	}
}

// TestForeignServiceBeside: a Service outside of the mesh that selects the same pods, ready or not, makes them no
// foreigners.
func TestForeignServiceBeside(t *testing.T) {
	const beside = "10-1-1-1.all.ops.svc.cluster.local."
	z := startZone(t, ptr1, a1, webArpa+" 5 IN PTR "+beside, beside+" 5 IN A "+webPod)
	a := newAsker(t, z)
	a.want(testMesh(), webPod+":80", destination.Mesh, "web", "web-canary")
	leave(z)
	z.add(t, webArpa+" 5 IN PTR "+beside)
	a.after(5001 * time.Millisecond)
	a.want(testMesh(), webPod+":80", destination.Mesh, "web", "web-canary")
}

// TestServiceIsRecreated: it gets a new clusterIP; the old one is nobody's, and still not plaintext.
func TestServiceIsRecreated(t *testing.T) {
	z := startZone(t, "9.0.96.10.in-addr.arpa. 5 IN PTR db.prod.svc.cluster.local.", "db.prod.svc.cluster.local. 5 IN A 10.96.0.9")
	a := newAsker(t, z)
	a.want(testMesh(), "10.96.0.9:5432", destination.Mesh, "db")
	z.remove("9.0.96.10.in-addr.arpa. PTR", "db.prod.svc.cluster.local. A")
	z.add(t, "10.0.96.10.in-addr.arpa. 5 IN PTR db.prod.svc.cluster.local.")
	z.add(t, "db.prod.svc.cluster.local. 5 IN A 10.96.0.10")
	a.want(testMesh(), "10.96.0.10:5432", destination.Mesh, "db")
	a.after(5001 * time.Millisecond)
	a.want(testMesh(), "10.96.0.9:5432", destination.Mesh, "db")
}

// TestForeignNow: who joins the mesh is in it at once, and who leaves it while DNS still names it is not.
func TestForeignNow(t *testing.T) {
	a := newAsker(t, startZone(t, ptr1, a1))
	left := testMesh(func(m *meshmap.Map) { m.Services = m.Services[1:] })
	a.want(left, webPod+":80", destination.Unknown)
	a.want(testMesh(), webPod+":80", destination.Mesh, "web", "web-canary")
	a.want(left, webPod+":80", destination.Unknown)
}
