package connection

import (
	"net/netip"
	"sync"
	"time"
)

// For how long the first byte of a connection to a Permissive port is waited for. A client of the mesh sends its hello
// at once. What stays silent is a protocol in which the server speaks first, and passes as plaintext; and the client
// waits for as long as the proxy does.
const (
	// longSilence is for those who send mutual TLS: two retransmissions. A greeting that overtakes a hello ends the
	// handshake.
	longSilence = 3 * time.Second
	// unknownSilence is for those of whom nothing is known: the retransmission of one hello (200 ms, RFC 6298 as Linux
	// has it). Probes and clients have a second or more.
	unknownSilence = 300 * time.Millisecond
	// plainSilence is for those who do not send mutual TLS. An address may have passed on to a pod that does.
	plainSilence = 50 * time.Millisecond
)

// What clients have shown is remembered for so long after they did so last, of so many.
const (
	plainTime     = 10 * time.Minute
	mutualTime    = 10 * time.Minute
	overtakenTime = time.Minute // nobody has proved that; it is for the client's second try
	maxClients    = 4096
)

// silences knows of clients on Permissive ports what their silence means. It decides for how long is waited and nothing
// else: a hello that arrives is served, and where it comes after the greeting the connection ends, and the client's
// next has all the time. So nothing that a client shows, or others behind its address, makes plaintext of what would be
// mutual TLS. Make it with newSilences.
type silences struct {
	now   func() time.Time
	mu    sync.Mutex
	known map[silenceKey]silence
}

// silenceKey is a client and the port of the app that it asks: a client may send to one of them around its proxy.
type silenceKey struct {
	client netip.Addr
	port   uint16
}

type silence struct {
	mutual bool
	until  time.Time
}

func newSilences(now func() time.Time) *silences {
	return &silences{now: now, known: map[silenceKey]silence{}}
}

func (s *silences) patience(k silenceKey) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch known, ok := s.known[k]; {
	case !ok || !s.now().Before(known.until):
		return unknownSilence
	case known.mutual:
		return longSilence
	}
	return plainSilence
}

// mutualTLS is a client that has proved who it is.
func (s *silences) mutualTLS(k silenceKey) { s.keep(k, true, mutualTime) }

// overtaken is one whose hello came after the greeting.
func (s *silences) overtaken(k silenceKey) { s.keep(k, true, overtakenTime) }

// plaintext is one that has sent something else, or nothing. It does not count against mutual TLS: behind one address
// may be many.
func (s *silences) plaintext(k silenceKey) { s.keep(k, false, plainTime) }

// keep makes room by removing what is over, and else any: whoever is forgotten is unknown again.
func (s *silences) keep(k silenceKey, mutual bool, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	next := silence{mutual, now.Add(d)}
	old, ok := s.known[k]
	if ok && now.Before(old.until) && old.mutual && (!mutual || next.until.Before(old.until)) {
		return
	}
	if !ok && len(s.known) >= maxClients {
		s.makeRoom(now)
	}
	s.known[k] = next
}

// makeRoom looks at a few alone: a stranger with many addresses has it called for each of them.
func (s *silences) makeRoom(now time.Time) {
	looks := 0
	var victim silenceKey
	for k, v := range s.known {
		over := !now.Before(v.until)
		if looks == 0 || over || !v.mutual {
			victim = k
		}
		if looks++; over || looks == 16 {
			break
		}
	}
	delete(s.known, victim)
}
