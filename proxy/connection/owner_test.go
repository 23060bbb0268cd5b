package connection

import (
	"net/netip"
	"testing"

	"github.com/meshless-dev/meshless/proxy/reason"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// TestOwner: who pays for the memory of a connection is who proved an identity, else the address of a stranger. What
// the pod itself opens to servers outside of the mesh is one owner's.
func TestOwner(t *testing.T) {
	source := netip.MustParseAddrPort("10.1.2.3:4567")
	for _, test := range []struct {
		direction  reason.Direction
		peer, want string
	}{
		{reason.Inbound, "spiffe://a/b", "spiffe://a/b"},
		{reason.Outbound, "spiffe://a/b", "spiffe://a/b"},
		{reason.Inbound, "", "10.1.2.3"},
		{reason.Outbound, "", ""},
	} {
		s := &Server{direction: test.direction}
		if got := s.owner(&conn{log: &telemetry.Connection{Peer: test.peer, Source: source}}); got != test.want {
			t.Errorf("%s, %q: owner %q, want %q", test.direction, test.peer, got, test.want)
		}
	}
}
