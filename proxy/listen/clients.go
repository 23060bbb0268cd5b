package listen

import (
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/internal/clientaddr"
)

// maxIdleClients bounds how many clients without a connection are remembered, so that one that comes again is at the
// same address.
const maxIdleClients = 4096

// Clients gives each client of a pod an address of its own, at which the app sees it. An address is where
// clientaddr.Preferred says; if another client is there, the next one that is free. Two clients have one address only
// if no address is free. Make it with NewClients.
type Clients struct {
	ranges clientaddr.Ranges

	mu    sync.Mutex
	known map[netip.Addr]*client
	held  map[netip.Addr]int // how many of the known are at an address
	idle  *list.List         // of *client without a connection; the longest idle first
}

// client is one address from which connections came.
type client struct {
	addr, app   netip.Addr
	identity    string // of the last connection that proved one
	since, last time.Time
	connections int
	idle        *list.Element // nil while it has connections
}

// Client is what /clients shows of one.
type Client struct {
	Client      netip.Addr `json:"client"`
	App         netip.Addr `json:"app"` // its address as the app sees it; empty where the system chose
	Identity    string     `json:"identity,omitempty"`
	Since       time.Time  `json:"since"` // first connection
	Last        time.Time  `json:"last"`  // newest connection
	Connections int        `json:"connections"`
}

// NewClients gives addresses of the ranges. Those that are not set leave the choice to the system, for tests.
func NewClients(ranges clientaddr.Ranges) *Clients {
	return &Clients{ranges: ranges, known: map[netip.Addr]*client{}, held: map[netip.Addr]int{}, idle: list.New()}
}

// Ranges are the networks of the addresses.
func (c *Clients) Ranges() clientaddr.Ranges { return c.ranges }

// Acquire is the address from which to dial the app at dst for a connection of the client. The client keeps it for as
// long as it has connections, and most likely longer; release ends one, and may be called often. Identity is the SPIFFE
// ID that the client has proved, or empty.
func (c *Clients) Acquire(from, dst netip.Addr, identity string) (app netip.Addr, release func()) {
	from = from.Unmap().WithZone("")
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	k := c.known[from]
	if k == nil {
		k = &client{addr: from, app: c.choose(c.ranges.Of(dst), from), since: now}
		c.known[from] = k
		c.held[k.app]++
	} else if k.idle != nil {
		c.idle.Remove(k.idle)
		k.idle = nil
	}
	k.connections++
	k.last = now
	if identity != "" {
		k.identity = identity
	}
	return k.app, sync.OnceFunc(func() { c.release(k) })
}

func (c *Clients) release(k *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.connections--; k.connections > 0 {
		return
	}
	k.idle = c.idle.PushBack(k)
	if c.idle.Len() > maxIdleClients {
		c.forget(c.idle.Front().Value.(*client))
	}
}

// forget drops a client without connections.
func (c *Clients) forget(k *client) {
	c.idle.Remove(k.idle)
	delete(c.known, k.addr)
	if c.held[k.app]--; c.held[k.app] == 0 {
		delete(c.held, k.app)
	}
}

// choose is the preferred address of a new client, or the next that is free. Where clients without a connection hold
// the last ones, it is that of the longest idle; where all have connections, it is shared. At most as many addresses
// are tried as clients are known, which the limit of connections bounds.
func (c *Clients) choose(p netip.Prefix, from netip.Addr) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	preferred := clientaddr.Preferred(p, from)
	addr := preferred
	for range min(clientaddr.Size(p), uint64(len(c.held)+1)) {
		if c.held[addr] == 0 {
			return addr
		}
		addr = clientaddr.Next(p, addr)
	}
	for e := c.idle.Front(); e != nil; e = e.Next() {
		if k := e.Value.(*client); p.Contains(k.app) && c.held[k.app] == 1 {
			c.forget(k)
			return k.app
		}
	}
	return preferred
}

// Seen are the clients that are known, in the order of their addresses.
func (c *Clients) Seen() []Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := make([]Client, 0, len(c.known))
	for _, k := range c.known {
		seen = append(seen, Client{k.addr, k.app, k.identity, k.since, k.last, k.connections})
	}
	slices.SortFunc(seen, func(a, b Client) int { return a.Client.Compare(b.Client) })
	return seen
}
