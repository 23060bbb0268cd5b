package connection

import (
	"cmp"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// When a client renews. A connection is near its end for the last tenth of a leaf's life: a leaf is renewed and synced
// by then, and what is still to come are tries.
const (
	nearPart         = 10               // of the life of a leaf
	leastPause       = 20 * time.Second // between two renewals with one server
	longestPause     = time.Hour
	pausePart        = 8 // of what is left until the end
	renewalsAtOnce   = 8
	maxOfOne         = 4 * renewalsAtOnce // servers of one identity, in one round
	renewalTimeout   = HandshakeTimeout
	renewalsInterval = 15 * time.Second
)

// renewable is an outbound connection to a proxy that takes renewals.
type renewable struct {
	m            meshDestination
	at           netip.AddrPort // where the server says it is; may not be valid
	peer         *identity.Peer
	name, answer binding

	// of our leaf that the server has seen; guarded by renewer.mu
	ownFrom, ownUntil time.Time
}

// server is one at which connections are renewed together.
type server struct {
	id spiffeid.ID
	at netip.AddrPort // that it has announced, or else the destination
}

func (c *renewable) server() server {
	if c.at.IsValid() {
		return server{c.peer.ID, c.at}
	}
	return server{c.peer.ID, c.m.addr}
}

// renewer makes the renewals of outbound connections. Make it with newRenewer.
type renewer struct {
	mu      sync.Mutex
	servers map[server]*renewals
}

// renewals are the connections with one server.
type renewals struct {
	connections map[*renewable]struct{}
	early       float64   // of the time near the end, from 0 to 0.5: clients of one server do not come at once
	next        time.Time // not before it
}

func newRenewer() *renewer { return &renewer{servers: map[server]*renewals{}} }

// add takes care of a connection until release. State is that of its handshake, own the leaf that we showed there.
func (r *renewer) add(state tls.ConnectionState, m meshDestination, peer *identity.Peer, own *x509.Certificate) (release func()) {
	at, ok := identity.Announced(state)
	if !ok {
		return func() {}
	}
	name, answer, err := bindings(state)
	if err != nil {
		return func() {}
	}
	c := &renewable{m: m, at: at, peer: peer, name: name, answer: answer, ownFrom: own.NotBefore, ownUntil: own.NotAfter}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.servers[c.server()]
	if s == nil {
		s = &renewals{connections: map[*renewable]struct{}{}, early: rand.Float64() / 2}
		r.servers[c.server()] = s
	}
	s.connections[c] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if delete(s.connections, c); len(s.connections) == 0 {
			delete(r.servers, c.server())
		}
	}
}

// ends is when the connection will be cut by us or the server if nothing is renewed, and the life of the leaf by which.
// A leaf of our own counts once there is a newer one: without it a renewal shows nothing new.
func (c *renewable) ends(own *x509.Certificate) (until time.Time, life time.Duration) {
	from, until := c.peer.Validity()
	if own.NotAfter.After(c.ownUntil) && c.ownUntil.Before(until) {
		from, until = c.ownFrom, c.ownUntil
	}
	return until, until.Sub(from)
}

// due is one renewal to make.
type due struct {
	server
	connections []*renewable
	until       time.Time // the first of them ends
	turn        int       // how many of the same identity come before
}

// due are the renewals to make now, the most urgent first. Each server is due again after a pause. Servers say
// themselves at which address they are, so of one identity there may be any number, and each may stall: identities take
// turns, and no more of one are due at a time than maxOfOne.
func (r *renewer) due(now time.Time, own *x509.Certificate) (all []due) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for at, s := range r.servers {
		// the clock may have gone back since next was set
		if now.Before(s.next) && s.next.Sub(now) <= 2*longestPause {
			continue
		}
		if d, ok := s.due(at, now, own); ok {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b due) int { return a.until.Compare(b.until) })
	of := map[spiffeid.ID]int{}
	for i := range all {
		all[i].turn = of[all[i].id]
		of[all[i].id]++
	}
	all = slices.DeleteFunc(all, func(d due) bool { return d.turn >= maxOfOne })
	slices.SortStableFunc(all, func(a, b due) int { return cmp.Compare(a.turn, b.turn) })
	for _, d := range all {
		pause := min(max(d.until.Sub(now)/pausePart, leastPause), longestPause)
		r.servers[d.server].next = now.Add(time.Duration(float64(pause) * (0.5 + rand.Float64())))
	}
	return all
}

// due are the connections with one server that are near their end; false: none is.
func (s *renewals) due(at server, now time.Time, own *x509.Certificate) (due, bool) {
	d := due{server: at}
	for c := range s.connections {
		until, life := c.ends(own)
		left := until.Sub(now)
		if near := time.Duration(float64(life/nearPart) * (1 - s.early)); left > near || left <= 0 {
			continue // what is over is about to be cut
		}
		if d.connections = append(d.connections, c); d.until.IsZero() || until.Before(d.until) {
			d.until = until
		}
	}
	return d, len(d.connections) > 0
}

// proved notes that the server has seen our leaf, and tells whether it is news to it.
func (r *renewer) proved(c *renewable, own *x509.Certificate) (news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	news = own.NotAfter.After(c.ownUntil)
	c.ownFrom, c.ownUntil = own.NotBefore, own.NotAfter
	return news
}

// renewEvery makes the renewals that are due, until ctx ends.
func (s *Server) renewEvery(ctx context.Context) {
	tick := time.NewTicker(renewalsInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.Renew(ctx)
		}
	}
}

// renewDue makes the renewals that are due now.
func (s *outbound) renewDue(ctx context.Context) {
	now := s.Current()
	if now == nil {
		return
	}
	var running sync.WaitGroup
	places := listen.NewSemaphore(renewalsAtOnce)
	for _, d := range s.renewer.due(now.Now(), now.Leaf) {
		for part := range slices.Chunk(d.connections, maxBindings) {
			if !places.Acquire(ctx) {
				break
			}
			running.Go(func() {
				defer places.Release()
				s.renew(ctx, now, due{server: d.server, connections: part, until: d.until})
			})
		}
	}
	running.Wait()
}

// renew makes one renewal.
func (s *outbound) renew(ctx context.Context, now *identity.Snapshot, d due) {
	at := s.reachable(ctx, now, d)
	result := telemetry.RenewalUnchanged
	renewed, err := s.exchange(ctx, now, d, at)
	switch {
	case err != nil:
		result = telemetry.RenewalFailed
	case renewed > 0:
		result = telemetry.RenewalDone
	}
	s.Telemetry.Renewed(d.id.String(), at, result, len(d.connections), renewed, err)
}

// reachable is where to dial: at the address that the server has announced, if the mesh knows it. A server must not be
// able to choose what we dial. Elsewhere it is the destination again, behind which there may be other pods; those do
// not know the connection.
func (s *outbound) reachable(ctx context.Context, now *identity.Snapshot, d due) netip.AddrPort {
	m := d.connections[0].m
	if d.at == m.addr || d.at == m.server() {
		return m.server()
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	if who, _ := s.resolver.Resolve(ctx, now.Mesh, d.at); who.Kind == destination.Mesh || who.Kind == destination.TryMesh {
		return meshDestination{addr: d.at, who: who}.server()
	}
	return m.server()
}

// exchange does the handshake of a renewal, and takes the server's new leaf over for each connection that it knows. It
// counts those to which one of the two leaves is news.
func (s *outbound) exchange(ctx context.Context, now *identity.Snapshot, d due, at netip.AddrPort) (renewed int, err error) {
	raw, err := listen.DialTCP(ctx, listen.Dialer(ConnectTimeout), at)
	if err != nil {
		return 0, err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(renewalTimeout))
	config, mutual := now.RenewalConfig(func(id spiffeid.ID, names []string) error {
		if id != d.id {
			return fmt.Errorf("%s answers at %s, where %s did before", id, at, d.id)
		}
		_, err := d.connections[0].m.accept(id, names)
		return err
	})
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return 0, err
	}
	if !mutual.Load() {
		return 0, errNotMutual
	}
	names := make([]binding, len(d.connections))
	for i, c := range d.connections {
		names[i] = c.name
	}
	if err := writeNames(conn, names); err != nil {
		return 0, err
	}
	answers, err := readBindings(conn, len(names))
	if err != nil {
		return 0, err
	}
	chain := now.Remember(conn.ConnectionState().PeerCertificates, x509.ExtKeyUsageServerAuth)
	for i, c := range d.connections {
		if subtle.ConstantTimeCompare(answers[i][:], c.answer[:]) != 1 {
			continue
		}
		news := s.renewer.proved(c, now.Leaf)
		if c.peer.Renew(now, chain) || news {
			renewed++
		}
	}
	_ = conn.Close() // whether the server reads our end says nothing any more
	return renewed, nil
}
