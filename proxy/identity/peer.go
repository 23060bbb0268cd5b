package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/api"
)

// maxEarlierKeys bounds the keys that a connection remembers of leaves before. The first stay, the one of its handshake
// among them; of the others the oldest go, whose certificates expired longest ago.
const maxEarlierKeys = 64

// Peer is who the peer of a live connection has proved to be. A renewal gives it a newer leaf of the same identity. It
// is safe for use by many goroutines.
type Peer struct {
	ID    spiffeid.ID
	usage x509.ExtKeyUsage

	mu      sync.Mutex
	chain   []*x509.Certificate
	proved  time.Time // when chain was verified, by the wall clock
	earlier []string  // digests of the keys in chains before
}

// Proof is the peer of a handshake that is done, with the chain that Remember returned.
func (s *Snapshot) Proof(id spiffeid.ID, chain []*x509.Certificate, usage x509.ExtKeyUsage) *Peer {
	return &Peer{ID: id, usage: usage, chain: chain, proved: s.wall()}
}

// wall is the present time without its monotonic part: what is compared with it follows the clock that certificates
// follow.
func (s *Snapshot) wall() time.Time { return s.now().Round(0) }

// Now is the present time by the clock of certificates.
func (s *Snapshot) Now() time.Time { return s.now() }

// Verify tells whether the peer would still be accepted under a snapshot, by its newest chain. It returns the DNS names
// of that leaf. A chain that was valid once is not "not yet valid": a clock that goes back is wrong, and cuts nothing.
// A revoked key of a chain before counts as one of the newest. Every error is an *svid.Error.
func (p *Peer) Verify(now *Snapshot) (names []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := now.verified.Verify(p.chain, p.usage, p.at(now)); err != nil {
		return nil, err
	}
	return p.chain[0].DNSNames, now.Bundle.CheckKeys(p.earlier)
}

// at is the present time, but no earlier one than that at which the chain was good already.
func (p *Peer) at(now *Snapshot) time.Time {
	if at := now.wall(); at.After(p.proved) {
		return at
	}
	return p.proved
}

// Renew takes over a newer chain, which the peer has proved in a handshake that it has bound to this connection. The
// chain before must still be good. It is false, and nothing changes, where the chain is of another identity, is not
// newer, or where one of the two is not accepted.
func (p *Peer) Renew(now *Snapshot, chain []*x509.Certificate) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := now.wall()
	if !chain[0].NotAfter.After(p.chain[0].NotAfter) {
		return false
	}
	if id, err := now.verified.Verify(chain, p.usage, at); err != nil || id != p.ID {
		return false
	}
	_, keys, err := now.verified.Keys(p.chain, p.usage, p.at(now))
	if err != nil || now.Bundle.CheckKeys(p.earlier) != nil {
		return false
	}
	p.earlier = remember(p.earlier, keys)
	p.chain, p.proved = chain, at
	return true
}

// remember adds keys, each once.
func remember(earlier, keys []string) []string {
	for _, key := range keys {
		if !slices.Contains(earlier, key) {
			earlier = append(earlier, key)
		}
	}
	if excess := len(earlier) - maxEarlierKeys; excess > 0 {
		earlier = slices.Delete(earlier, maxEarlierKeys/4, maxEarlierKeys/4+excess)
	}
	return earlier
}

// OlderThan tells whether the leaf of another ends later.
func (p *Peer) OlderThan(other *Peer) bool {
	_, until := p.Validity()
	_, later := other.Validity()
	return later.After(until)
}

// Chain is the newest chain.
func (p *Peer) Chain() []*x509.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.chain
}

// Validity is from when until when the newest chain is good, without its authority.
func (p *Peer) Validity() (from, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	from, until = p.chain[0].NotBefore, p.chain[0].NotAfter
	for _, c := range p.chain[1:] {
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	return from, until
}

// announcement is the beginning of what a server says about renewals.
const announcement = api.RenewALPN + " "

// Announce lets the server of this one handshake tell clients of the mesh that it takes renewals, and at which address
// of its pod: through a Service they would reach any pod of it. It stands in the place of a signed certificate
// timestamp, the only field of a handshake that crypto/tls passes on as it is. Older proxies do not look at it. That it
// is true proves nothing, and nothing depends on it but where a client dials.
func Announce(c *tls.Config, at netip.AddrPort) {
	announcing := c.Certificates[0]
	announcing.SignedCertificateTimestamps = [][]byte{[]byte(announcement + at.String())}
	c.Certificates = []tls.Certificate{announcing}
}

// Announced tells whether the server of a handshake takes renewals, and where it says it does. The address is not valid
// where it says nothing that can be read.
func Announced(state tls.ConnectionState) (at netip.AddrPort, ok bool) {
	if state.NegotiatedProtocol != api.ALPN || len(state.SignedCertificateTimestamps) != 1 {
		return netip.AddrPort{}, false
	}
	text, ok := strings.CutPrefix(string(state.SignedCertificateTimestamps[0]), announcement)
	if !ok {
		return netip.AddrPort{}, false
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil || at.Port() == 0 || at.Addr().Zone() != "" {
		return netip.AddrPort{}, true
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), true
}

// errNoRenewal is a server that does not know renewals, such as an older proxy: it must not take one for a connection
// to its app.
var errNoRenewal = errors.New("the server does not take renewals")

// RenewalConfig is ClientConfig for a renewal.
func (s *Snapshot) RenewalConfig(authorize AuthorizeServer) (c *tls.Config, mutual *atomic.Bool) {
	c, mutual = s.ClientConfig(authorize)
	c.NextProtos = []string{api.RenewALPN}
	verify := c.VerifyConnection
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if state.NegotiatedProtocol != api.RenewALPN {
			return errNoRenewal
		}
		return verify(state)
	}
	return c, mutual
}
