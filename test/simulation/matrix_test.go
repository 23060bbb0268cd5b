package simulation

import (
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
)

// maxSkew is how far any clock is off, the renderer's too. NotBefore is back-dated by twice as much, which is exactly
// what a fast renderer and a slow verifier need.
const maxSkew = 5 * time.Minute

var roles = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}

// leaf is a certificate as pods present it. All pods that present the same one are one class.
type leaf struct {
	workload    string
	certificate *x509.Certificate
	digest      string
	presenters  []*pod
	merged      bool // it was on the branch
}

func (l *leaf) chain() []*x509.Certificate { return []*x509.Certificate{l.certificate} }

// trust is what pods verify with: authorities and revoked keys. All pods that hold the same are one class.
type trust struct {
	bundle    *svid.Bundle
	text      string // of the bundle
	revoked   []string
	verifiers []*pod
	refuses   map[*leaf]bool // thieves whose key is known to be refused
}

// matrix is every handshake that could happen now: live leaves by live trusts. A certificate chain is valid in an
// interval of time, since the leaf has one issuer. So a pair that verifies on the slowest clock when it appears and on
// the fastest when it vanishes verified on every clock between the two. Ticks look between all the same, so that this
// argument does not stand alone.
type matrix struct {
	s        *simulation
	leaves   []*leaf
	trusts   []*trust
	pods     int     // live
	thieves  []*leaf // whose keys are stolen and revoked
	reported map[failure]bool
}

type failure struct {
	leaf   *leaf
	trust  *trust
	reason svid.Reason
}

func newMatrix(s *simulation) matrix { return matrix{s: s, reported: map[failure]bool{}} }

// join makes a pod present a leaf and verify with a trust.
func (m *matrix) join(p *pod) {
	slow := m.s.now.Add(-maxSkew)
	p.leaf.presenters, p.trust.verifiers = append(p.leaf.presenters, p), append(p.trust.verifiers, p)
	if len(p.trust.verifiers) == 1 {
		m.trusts = append(m.trusts, p.trust)
		for _, l := range m.leaves {
			m.shake(l, p.trust, slow)
		}
	}
	if len(p.leaf.presenters) == 1 {
		m.leaves = append(m.leaves, p.leaf)
		for _, t := range m.trusts {
			m.shake(p.leaf, t, slow)
		}
	}
	m.pods++
	m.s.record.handshakes += 2 * m.pods
	m.s.record.maxPods = max(m.s.record.maxPods, m.pods)
}

// part is the end of what join began.
func (m *matrix) part(p *pod) {
	fast := m.s.now.Add(maxSkew)
	if len(p.leaf.presenters) == 1 {
		for _, t := range m.trusts {
			m.shake(p.leaf, t, fast)
		}
		m.leaves = without(m.leaves, p.leaf)
	}
	if len(p.trust.verifiers) == 1 {
		for _, l := range m.leaves {
			m.shake(l, p.trust, fast)
		}
		m.trusts = without(m.trusts, p.trust)
	}
	p.leaf.presenters, p.trust.verifiers = without(p.leaf.presenters, p), without(p.trust.verifiers, p)
	m.pods--
}

// tick verifies every pair on both extreme clocks, one role on each.
func (m *matrix) tick() {
	for _, t := range m.trusts {
		for _, l := range m.leaves {
			m.verify(l, t, x509.ExtKeyUsageServerAuth, m.s.now.Add(-maxSkew))
			m.verify(l, t, x509.ExtKeyUsageClientAuth, m.s.now.Add(maxSkew))
		}
	}
	m.s.record.handshakes += 2 * m.pods * m.pods
}

func (m *matrix) shake(l *leaf, t *trust, at time.Time) {
	for _, role := range roles {
		m.verify(l, t, role, at)
	}
}

func (m *matrix) verify(l *leaf, t *trust, role x509.ExtKeyUsage, at time.Time) {
	m.s.record.verifications++
	_, err := t.bundle.Verify(l.chain(), role, at)
	if err == nil {
		return
	}
	key := failure{l, t, reasonOf(err)}
	if m.reported[key] {
		return
	}
	m.reported[key] = true
	if why := m.s.excuse(l, t); why != "" {
		m.s.record.excuse(why)
		return
	}
	m.s.record.fail(kind(key.reason), m.s.now, "%v", err)
}

func reasonOf(err error) svid.Reason {
	var refused *svid.Error
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return svid.Malformed
}

func without[T comparable](list []T, item T) []T {
	i := slices.Index(list, item)
	return slices.Delete(list, i, i+1)
}
