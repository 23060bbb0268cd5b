package record

import "time"

// SetClock replaces the clock of the budgets, from its beginning on.
func (c *Conn) SetClock(now func() time.Duration) {
	c.in.now = now
	c.in.updates.at, c.in.idle.at = now(), now()
}
