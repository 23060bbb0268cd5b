package relay

import (
	"time"

	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/live"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// Carried is a connection that may carry data: what both directions of the proxy make of one that they have accepted.
type Carried struct {
	Opener, Target *Side
	Prefix         []byte // was read from Opener already; goes to Target first
	Security       telemetry.Security
	Idle           time.Duration // default of Options
	Record         *telemetry.Connection

	Live     *live.Registry
	Snapshot *identity.Snapshot // under which it was accepted
	Judge    live.Judge         // tells whether it still would be
}

// Start relays, while the registry judges, and records both. Done is called at the end, in any goroutine. Of Carried
// nothing but the record is kept: the snapshot, with its key, must not stay in memory for as long as a connection
// lives.
func (c *Carried) Start(e *Engine, done func()) {
	record := c.Record
	record.Open(c.Security)
	session := New(c.Opener, c.Target, Options{Idle: c.Idle, Prefix: c.Prefix, Received: record.Received, Sent: record.Sent})
	entry := c.Live.Add(c.Snapshot, c.Judge, session)
	session.Start(e, func(r Result) {
		entry.Done()
		record.Close(r.Received, r.Sent, r.Reason, r.Err)
		done()
	})
}
