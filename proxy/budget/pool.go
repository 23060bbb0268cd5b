package budget

import (
	"cmp"
	"sync"
)

// Cost is what something takes of a pool.
type Cost struct {
	Bytes int64
	Files int
}

func (c Cost) plus(d Cost) Cost       { return Cost{c.Bytes + d.Bytes, c.Files + d.Files} }
func (c Cost) minus(d Cost) Cost      { return Cost{c.Bytes - d.Bytes, c.Files - d.Files} }
func (c Cost) within(limit Cost) bool { return c.Bytes <= limit.Bytes && c.Files <= limit.Files }

// OfPlaintext comes on top of a connection.
var OfPlaintext = Cost{Plaintext, FilesOfPlaintext}

// Pool is what both directions share. Connections that wait may take what others leave free, and the park besides. So
// connections never fill the park. Make it with NewPool.
type Pool struct {
	mu     sync.Mutex
	each   Cost // of a connection
	limit  Cost // of all
	park   int  // connections that can wait beyond them
	served Cost
	rooms  []*Room
}

// Room is where the connections of one direction wait.
type Room struct {
	pool   *Pool
	freed  func()
	parked int
}

// NewPool is the pool of a budget.
func NewPool(b Budget) *Pool {
	b.Each = cmp.Or(b.Each, Cost{Connection, FilesOfConnection})
	return &Pool{each: b.Each, limit: Cost{int64(b.Connections) * b.Each.Bytes, b.Connections * b.Each.Files}, park: b.Park}
}

// Room adds a room. Freed is called, without a lock, whenever a connection gives its place back. Add all before the
// first is used.
func (p *Pool) Room(freed func()) *Room {
	r := &Room{pool: p, freed: freed}
	p.rooms = append(p.rooms, r)
	return r
}

// Park takes room for a connection that waits; false: there is none. Of the park each room can have its part, whatever
// the others hold.
func (r *Room) Park() bool {
	p := r.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	part, n := max(1, p.park/len(p.rooms)), 1
	for _, other := range p.rooms {
		if n += other.parked; other != r {
			n += max(0, part-other.parked)
		}
	}
	if n > p.free()+max(1, p.park) { // each of them needs a place in the end, or is one of the park
		return false
	}
	r.parked++
	return true
}

// Unpark gives back what Park took.
func (r *Room) Unpark() {
	r.pool.mu.Lock()
	r.parked--
	r.pool.mu.Unlock()
}

// Serve takes the place of a connection; false: there is none. One that was parked gives that up.
func (r *Room) Serve(parked bool) bool {
	r.pool.mu.Lock()
	defer r.pool.mu.Unlock()
	if !r.pool.served.plus(r.pool.each).within(r.pool.limit) {
		return false
	}
	r.pool.served = r.pool.served.plus(r.pool.each)
	if parked {
		r.parked--
	}
	return true
}

// Return undoes a Serve of a parked connection.
func (r *Room) Return() {
	r.pool.mu.Lock()
	defer r.pool.mu.Unlock()
	r.pool.served = r.pool.served.minus(r.pool.each)
	r.parked++
}

// More takes what a connection costs in addition; false: there is no room for it beside those that wait.
func (p *Pool) More(c Cost) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	beyond := -p.park
	for _, r := range p.rooms {
		beyond += r.parked
	}
	if beyond = max(0, beyond); !p.served.plus(c).plus(Cost{int64(beyond) * Parked, beyond}).within(p.limit) {
		return false
	}
	p.served = p.served.plus(c)
	return true
}

// Give gives back the place of a connection, and what it took in addition.
func (p *Pool) Give(more Cost) {
	p.mu.Lock()
	p.served = p.served.minus(p.each).minus(more)
	p.mu.Unlock()
	for _, r := range p.rooms {
		r.freed()
	}
}

// Free is how many connections more have a place.
func (p *Pool) Free() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.free()
}

func (p *Pool) free() int {
	left := p.limit.minus(p.served)
	return max(0, min(int(left.Bytes/p.each.Bytes), left.Files/p.each.Files))
}
