package reason

import (
	"testing"

	"github.com/meshless-dev/meshless/internal/svid"
)

// TestHints: who is paged is told where to look, for every failure that an operator can cause.
func TestHints(t *testing.T) {
	for _, d := range []Direction{Inbound, Outbound} {
		for _, r := range []Reason{ConnectFailed, Alert, ConnectionLimit, GivenUp, Idle, MemoryLimit, StuckRecord, PeerUnresponsive} {
			if hints[d][r] == "" {
				t.Errorf("%s %s has no hint", d, r)
			}
		}
		for _, c := range []Cause{Timeout, PeerClosed, NotTLS, PeerRefused, TooLarge, Cause(svid.UnknownAuthority), Cause(svid.Expired), Cause(svid.NotYetValid), Cause(svid.Revoked)} {
			if causeHints[d][c] == "" {
				t.Errorf("%s %s has no hint", d, c)
			}
		}
	}
}
