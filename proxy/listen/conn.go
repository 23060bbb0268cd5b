package listen

import (
	"net"
	"time"

	"github.com/meshless-dev/meshless/proxy/budget"
)

// Conn is an accepted connection, with what it holds.
type Conn struct {
	*net.TCPConn
	Accepted time.Time
	Silent   bool // its first byte was waited for, and has not come

	server   *Server
	waiting  waiting
	state    state
	standing Standing // with which it began
	extra    budget.Cost
}

// state is where a connection is. The server's lock guards it.
type state int

const (
	parked  state = iota
	serving       // its peer is not known; it holds a slot and a place
	known         // it holds a place
	refused       // it holds nothing
	ended
)

// Authenticated gives the slot back. It may be called often.
func (c *Conn) Authenticated() {
	s := c.server
	s.mu.Lock()
	free := c.state == serving
	if free {
		c.state = known
		s.turns.known(&c.waiting)
	}
	s.mu.Unlock()
	if free {
		s.kick()
	}
}

// Proved says that the source of c has shown who it is, or that it serves. Its connections then come before those of
// sources that have not.
func (c *Conn) Proved() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.server.turns.proves(c.waiting.source, time.Now())
}

// Failed says that it has not.
func (c *Conn) Failed() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.server.turns.fails(c.waiting.source, time.Now())
}

// More takes what c costs in addition to others; false: there is no room for it.
func (c *Conn) More(cost budget.Cost) bool {
	if !c.server.Pool.More(cost) {
		return false
	}
	c.extra = cost
	return true
}

// End resets the connection, unless it was closed before, and gives back what it holds. It is called once.
func (c *Conn) End() {
	Reset(c.TCPConn)
	s := c.server
	s.mu.Lock()
	placed := c.state == serving || c.state == known
	switch c.state {
	case serving:
		s.turns.release(&c.waiting)
	case known:
		c.waiting.source.held--
	}
	c.state = ended
	s.turns.settle(c.waiting.source, time.Now())
	s.mu.Unlock()
	if placed {
		s.Pool.Give(c.extra)
	}
	s.active.Add(-1)
	s.handlers.Done()
}
