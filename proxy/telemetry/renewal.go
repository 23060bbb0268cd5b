package telemetry

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/meshless-dev/meshless/proxy/reason"
)

// Renewal is what came of a renewal: a handshake by which connections outlive the leaves that they began with.
type Renewal string

// The results of renewals.
const (
	RenewalDone      Renewal = "renewed"   // at least one connection has a new leaf
	RenewalUnchanged Renewal = "unchanged" // the peer has no newer leaf, or does not know the connections
	RenewalFailed    Renewal = "failed"
)

var allRenewals = []Renewal{RenewalDone, RenewalUnchanged, RenewalFailed}

// Renewed counts a renewal that we made as a client, and logs it for debugging. Peer is its identity before the
// renewal, at where it was dialed.
func (t *Telemetry) Renewed(peer string, at netip.AddrPort, result Renewal, connections, renewed int, err error) {
	t.renewals.WithLabelValues(string(reason.Outbound), string(result)).Inc()
	if !t.Log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	args := []any{"direction", string(reason.Outbound), "dst", at.String(), "dst_identity", peer, "result", string(result), "connections", connections, "renewed", renewed}
	if err != nil {
		args = append(args, "error", truncate(err.Error()))
	}
	t.Log.Debug("renewal", args...)
}

// Renewed counts a renewal of a client, and logs it for debugging.
func (c *Connection) Renewed(result Renewal) {
	c.t.renewals.WithLabelValues(string(c.Direction), string(result)).Inc()
	if c.t.Log.Enabled(context.Background(), slog.LevelDebug) {
		c.t.Log.Debug("renewal", c.who("result", string(result))...)
	}
}
