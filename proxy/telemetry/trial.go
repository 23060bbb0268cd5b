package telemetry

import (
	"net/netip"
	"sync"
)

// Trial is what came of mutual TLS where it was tried first.
type Trial string

// The results of trials. Those but TrialMesh and TrialFailed prove that the server is not of the mesh.
const (
	TrialMesh               Trial = "mesh"
	TrialNotTLS             Trial = "not_tls"             // it answers with something else
	TrialAlert              Trial = "alert"               // it refuses our hello
	TrialForeignCertificate Trial = "foreign_certificate" // without a SPIFFE ID
	TrialClosed             Trial = "closed"              // several times in a row, without an answer
	TrialFailed             Trial = "failed"              // nothing is proved: the connection is refused
)

var allTrials = []Trial{TrialMesh, TrialNotTLS, TrialAlert, TrialForeignCertificate, TrialClosed, TrialFailed}

// Foreign tells whether the server has proved not to be of the mesh.
func (t Trial) Foreign() bool { return t != "" && t != TrialMesh && t != TrialFailed }

// Tried counts a trial.
func (t *Telemetry) Tried(result Trial) { t.trials.WithLabelValues(string(result)).Inc() }

// PassedOn counts a connection that leaves as plaintext, since its server has proved not to be of the mesh.
func (t *Telemetry) PassedOn() { t.passedOn.Inc() }

// PassedOn logs that the destination has just proved not to be of the mesh, by what it did.
func (c *Connection) PassedOn(err error) {
	if more, ok := c.t.lines.allow("passed on"); ok {
		c.t.Log.Warn("passed on in plaintext: the server proved not to be of the mesh", c.who(append([]any{"error", truncate(err.Error()),
			"hint", "say that it is outside the mesh: outbound.plaintextServices, or outbound.excludeCIDRs; then nothing is tried"}, more...)...)...)
	}
}

// Unanswered counts a plaintext connection into the networks of the cluster whose server has closed without an answer,
// and logs it once for a destination.
func (c *Connection) Unanswered(received int64) {
	c.t.unanswered.Inc()
	if !c.t.told.first(c.Destination) {
		return
	}
	if more, ok := c.t.lines.allow("unanswered"); ok {
		c.t.Log.Warn("plaintext connection closed without an answer", c.who(append([]any{"bytes_received", received,
			"hint", "likely a destination of the mesh that this map does not know: was it rendered by another package (one CA: --ca), or is the map older than it?"}, more...)...)...)
	}
}

// maxTold bounds the destinations that are remembered. When there are more, lines come again.
const maxTold = 1024

// destinations are those of which something was said already.
type destinations struct {
	mu   sync.Mutex
	seen map[netip.AddrPort]bool
}

func (d *destinations) first(dst netip.AddrPort) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen[dst] {
		return false
	}
	if d.seen == nil || len(d.seen) >= maxTold {
		d.seen = map[netip.AddrPort]bool{}
	}
	d.seen[dst] = true
	return true
}
