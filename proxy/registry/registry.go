// Package registry knows the connections that carry data. Those whose peer is no longer acceptable end when a new
// generation of files arrives, or when the peer's certificate expires: trust that was withdrawn must not live on in old
// connections.
package registry

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/reason"
)

// Verify tells whether a connection is still acceptable under a snapshot.
type Verify func(*identity.Snapshot) error

// Registry holds live connections. Make it with New.
type Registry struct {
	mu      sync.Mutex
	current *identity.Snapshot
	entries map[*Entry]struct{}
	ended   error // why no connection may be added any more
}

// Session is what carries the data of a connection.
type Session interface {
	// Abort ends the session with an error, which is a *reason.Error. The registry calls it at most once, in any
	// goroutine.
	Abort(err error)
	// Unresponsive is an error if one of the peers has not acknowledged for long what was sent to it: its node died, or
	// the network between broke.
	Unresponsive() error
}

// Entry is one registered connection.
type Entry struct {
	registry *Registry
	verify   Verify
	session  Session
}

// New makes an empty registry.
func New() *Registry { return &Registry{entries: map[*Entry]struct{}{}} }

// Add registers a connection that was accepted under snapshot. If a newer one has arrived since, that is asked at
// once: no connection can slip between two generations.
func (r *Registry) Add(snapshot *identity.Snapshot, verify Verify, session Session) *Entry {
	e := &Entry{registry: r, verify: verify, session: session}
	r.mu.Lock()
	r.entries[e] = struct{}{}
	newest, ended := r.current, r.ended
	r.mu.Unlock()
	if ended != nil {
		e.end(reason.ShutDown, ended)
		return e
	}
	if newest != nil && newest.Number > snapshot.Number {
		e.reconsider(newest)
	}
	return e
}

// Done removes the connection.
func (e *Entry) Done() {
	e.registry.mu.Lock()
	defer e.registry.mu.Unlock()
	delete(e.registry.entries, e)
}

// reconsider asks outside the lock, and aborts only if the entry is still registered: so Abort is called once.
func (e *Entry) reconsider(s *identity.Snapshot) {
	if err := e.verify(s); err != nil {
		e.end(reason.NoLongerAccepted, err)
	}
}

func (e *Entry) end(r reason.Reason, err error) {
	e.registry.mu.Lock()
	_, registered := e.registry.entries[e]
	delete(e.registry.entries, e)
	e.registry.mu.Unlock()
	if registered {
		e.session.Abort(reason.New(r, err))
	}
}

// AbortAll ends every connection, and those that are added later.
func (r *Registry) AbortAll(err error) {
	r.mu.Lock()
	r.ended = err
	r.mu.Unlock()
	for _, e := range r.all() {
		e.end(reason.ShutDown, err)
	}
}

func (r *Registry) all() []*Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.entries))
}

// Reconsider verifies every connection under s, or under the newest snapshot if s is not that.
func (r *Registry) Reconsider(s *identity.Snapshot) {
	r.mu.Lock()
	if r.current == nil || s.Number > r.current.Number {
		r.current = s
	}
	r.mu.Unlock()
	r.verifyAll()
}

// Intervals of Run.
type Intervals struct {
	Verify time.Duration // certificates expire between generations
	Peers  time.Duration // between two looks for peers that do not respond
}

// Run looks after the connections at these intervals until ctx ends.
func (r *Registry) Run(ctx context.Context, every Intervals) {
	verify, peers := time.NewTicker(every.Verify), time.NewTicker(every.Peers)
	defer verify.Stop()
	defer peers.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-verify.C:
			r.verifyAll()
		case <-peers.C:
			r.endUnresponsive()
		}
	}
}

func (r *Registry) verifyAll() {
	r.mu.Lock()
	s := r.current
	r.mu.Unlock()
	if s == nil {
		return
	}
	for _, e := range r.all() {
		e.reconsider(s)
	}
}

func (r *Registry) endUnresponsive() {
	for _, e := range r.all() {
		if err := e.session.Unresponsive(); err != nil {
			e.end(reason.PeerUnresponsive, err)
		}
	}
}
