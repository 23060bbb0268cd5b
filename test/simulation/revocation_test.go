package simulation

import (
	"slices"

	"github.com/meshless-dev/meshless/internal/svid"
)

// How a key is revoked: a render is told (Options.Revoke, `meshless revoke`), lists the digest in state and mesh maps,
// and issues the leaf anew. What the tree of an older commit cannot know, the keys that were revoked since, whoever
// reverts must keep: restore and stillRevoked are that rule.

// revoke takes the key of some workload for stolen: it is revoked and issued anew at once. The thief keeps it.
func (s *simulation) revoke() {
	head := s.git.head()
	if len(s.git.wanted) == 0 || s.git.paused {
		return
	}
	stolen := head.leaves[s.git.wanted[s.rng.IntN(len(s.git.wanted))].key()]
	if stolen == nil || slices.Contains(s.matrix.thieves, stolen) {
		return
	}
	s.record.revocations++
	s.matrix.thieves = append(s.matrix.thieves, stolen)
	s.propose(s.between(0, 2*maxSwap))
}

// stillRevoked are the stolen keys with a certificate that is still valid, which every render is told: its base may be
// a revert.
func (s *simulation) stillRevoked() []string {
	var digests []string
	for _, l := range s.matrix.thieves {
		if l.certificate.NotAfter.After(s.now) {
			digests = append(digests, l.digest)
		}
	}
	return digests
}

// checkRevoked runs after a pod took new files: what it refused once it must refuse as long as the thief's certificate
// lives.
func (s *simulation) checkRevoked(p *pod) {
	for _, digest := range p.trust.revoked {
		p.knows[digest] = true
	}
	for _, l := range s.matrix.thieves {
		if p.knows[l.digest] {
			s.mustRefuse(p, l)
		}
	}
}

// checkThieves asks every live pod that has seen a commit with the revocation.
func (s *simulation) checkThieves() {
	for _, t := range s.matrix.trusts {
		for _, p := range t.verifiers {
			for _, l := range s.matrix.thieves {
				at := s.git.since[l.digest]
				settled := !at.IsZero() && !p.replica.node.applied.from.Before(at) && s.now.After(p.replica.node.at.Add(2*maxSwap))
				if settled && p.retries == 0 {
					s.mustRefuse(p, l)
				}
			}
		}
	}
}

// mustRefuse asks once for each leaf and trust: a refusal of a revoked key does not depend on the time.
func (s *simulation) mustRefuse(p *pod, l *leaf) {
	if p.trust.refuses[l] || s.now.After(l.certificate.NotAfter.Add(maxSkew)) {
		return
	}
	p.trust.refuses[l] = true
	for _, role := range roles {
		if id, err := p.trust.bundle.Verify(l.chain(), role, s.now.Add(p.replica.node.skew)); reasonOf(err) != svid.Revoked {
			p.trust.refuses[l] = false
			if err != nil {
				continue
			}
			s.record.fail(acceptedRevoked, s.now, "a pod of %s accepts the thief of the key of %s", p.key(), id)
		}
	}
}
