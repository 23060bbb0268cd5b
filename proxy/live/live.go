// Package live knows the connections that carry data, so that those whose peer is no longer acceptable end when a new
// generation of files arrives, or when the peer's certificate expires: trust that was withdrawn must not live on in old
// connections.
package live

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/proxy/identity"
)

// Judge tells whether a connection is still acceptable under a snapshot.
type Judge func(*identity.Snapshot) error

// Registry holds live connections. Make it with New.
type Registry struct {
	mu      sync.Mutex
	current *identity.Snapshot
	entries map[*Entry]struct{}
	ended   error // why no connection may be added any more
}

// Session is what carries the data of a connection.
type Session interface {
	// Abort ends the session. The registry calls it at most once, in any goroutine.
	Abort(reason string, err error)
	// Vanished is an error if one of the peers has not acknowledged for long what was sent to it: its node died, or the
	// network between broke.
	Vanished() error
}

// Entry is one registered connection.
type Entry struct {
	registry *Registry
	judge    Judge
	session  Session
}

// Reasons with which connections are aborted.
const (
	NoLongerAccepted = "no_longer_accepted" // by a new generation, or since a certificate expired
	PeerVanished     = "peer_vanished"      // what was sent is not acknowledged
	ShutDown         = "shut_down"          // the drain timeout is over
)

// New makes an empty registry.
func New() *Registry { return &Registry{entries: map[*Entry]struct{}{}} }

// Add registers a connection that was accepted under snapshot. When a newer one arrived since, it judges at once: no
// connection can slip between two generations.
func (r *Registry) Add(snapshot *identity.Snapshot, judge Judge, session Session) *Entry {
	e := &Entry{registry: r, judge: judge, session: session}
	r.mu.Lock()
	r.entries[e] = struct{}{}
	newest, ended := r.current, r.ended
	r.mu.Unlock()
	if ended != nil {
		e.end(ShutDown, ended)
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

// reconsider judges outside the lock, and aborts only if the entry is still registered, so that abort is called once.
func (e *Entry) reconsider(s *identity.Snapshot) {
	err := e.judge(s)
	if err == nil {
		return
	}
	e.end(NoLongerAccepted, err)
}

func (e *Entry) end(reason string, err error) {
	e.registry.mu.Lock()
	_, registered := e.registry.entries[e]
	delete(e.registry.entries, e)
	e.registry.mu.Unlock()
	if registered {
		e.session.Abort(reason, err)
	}
}

// AbortAll ends every connection, and those that are added later.
func (r *Registry) AbortAll(err error) {
	r.mu.Lock()
	r.ended = err
	r.mu.Unlock()
	for _, e := range r.all() {
		e.end(ShutDown, err)
	}
}

func (r *Registry) all() []*Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.entries))
}

// Reconsider judges every connection under s, or under the newest snapshot if s is not that.
func (r *Registry) Reconsider(s *identity.Snapshot) {
	r.mu.Lock()
	if r.current == nil || s.Number > r.current.Number {
		r.current = s
	}
	s = r.current
	r.mu.Unlock()
	for _, e := range r.all() {
		e.reconsider(s)
	}
}

// Len is the number of registered connections.
func (r *Registry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.entries)
}

// Intervals of Run.
type Intervals struct {
	Judge  time.Duration // certificates expire between generations
	Vanish time.Duration // between two looks for peers that have vanished
}

// Run looks after the connections at these intervals until ctx ends.
func (r *Registry) Run(ctx context.Context, every Intervals) {
	judge, vanish := time.NewTicker(every.Judge), time.NewTicker(every.Vanish)
	defer judge.Stop()
	defer vanish.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-judge.C:
			r.judgeAll()
		case <-vanish.C:
			r.endVanished()
		}
	}
}

func (r *Registry) judgeAll() {
	r.mu.Lock()
	s := r.current
	r.mu.Unlock()
	if s != nil {
		r.Reconsider(s)
	}
}

func (r *Registry) endVanished() {
	for _, e := range r.all() {
		if err := e.session.Vanished(); err != nil {
			e.end(PeerVanished, err)
		}
	}
}
