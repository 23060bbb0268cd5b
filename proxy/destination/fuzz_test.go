package destination_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/proxy/destination"
)

// FuzzDecide: whatever names DNS gives to an address beside that of a pod of the mesh, confirmed or not, it gets no
// plaintext but on a port that the map opens, and nobody of another namespace answers there. Without an answer nothing
// near is outside the mesh.
func FuzzDecide(f *testing.F) {
	f.Add("web.prod x.evil meshless-members-zzz.evil old.prod", uint64(0x5555), uint16(80), true)
	f.Add("kubernetes.default db.data meshless-members-test.data", uint64(0xffff), uint16(8081), false)
	thief := spiffeid.RequireFromString("spiffe://cluster.local/ns/evil/deployment/thief")
	f.Fuzz(func(t *testing.T, names string, flags uint64, port uint16, shared bool) {
		m := destination.NewMap(wholeMesh(func(m *meshmap.Map) { m.SharedCA = shared }))
		dst := netip.AddrPortFrom(netip.MustParseAddr("10.1.0.1"), port)
		l := destination.Lookup{Doubt: "fuzzed"}
		var claimed []string
		for i, service := range strings.Fields(names) {
			bits := flags >> (i * 4 % 64)
			l.Names = append(l.Names, destination.Name{Service: service, Confirmed: bits&1 > 0, Endpoint: bits&2 > 0, Forward: bits&4 > 0, Alias: bits&8 > 0})
			claimed = append(claimed, service+".svc.cluster.local")
		}
		l.Names = append(l.Names, destination.Name{Service: members + ".prod", Endpoint: true, Confirmed: true})
		d := m.Decide(dst, l)
		switch d.Kind {
		case destination.Mesh, destination.Refused:
		case destination.Plaintext:
			if port != 8081 && port != 81 && port != 9187 && port != 15020 && port != 15021 {
				t.Errorf("port %d gets plaintext with %+v", port, l.Names)
			}
		default:
			t.Errorf("a pod of the mesh is %s with %+v", d.Kind, l.Names)
		}
		if by := d.Accepts(thief, claimed); by != "" {
			t.Errorf("somebody of another namespace is accepted by %s with %+v", by, l.Names)
		}
		if d := m.Decide(dst, destination.Lookup{Err: errors.New("no answer")}); d.Kind != destination.Refused {
			t.Errorf("without an answer it is %s", d.Kind)
		}
	})
}
