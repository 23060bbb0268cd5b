package simulation

import (
	"cmp"
	"slices"
	"time"
)

// What the design says must fail. Everything else that fails is a fault.
const (
	revokedKey    = "the key of one side is revoked"
	renewedLate   = "one side's leaf expired, and no commit that its node could have applied in time held a newer one"
	startedAnew   = "every leaf had expired, the mesh starts anew, and the kubelet's caches are not of one moment"
	hungMeanwhile = "the node of one side did not apply anything for a day while the authorities were replaced"
	broughtBack   = "one side's leaf expired, and a revert had brought it back too late in its life"
)

// excuse says why the design wants handshakes between the pods that present a leaf and those that verify with a trust
// to fail; "" where a single pair of them must succeed. A pod whose own leaf has lawfully died is out of the mesh,
// whatever role it plays.
func (s *simulation) excuse(l *leaf, t *trust) string {
	var why string
	for _, p := range l.presenters {
		for _, v := range t.verifiers {
			switch dead, deaf := s.dead(p, p.leaf, p.trust.text), s.dead(v, v.leaf, v.trust.text); {
			case dead != "":
				why = dead
			case deaf != "":
				why = deaf
			default:
				return ""
			}
		}
	}
	return why
}

// dead says why a pod with this leaf and bundle is lawfully out of the mesh, or "".
func (s *simulation) dead(p *pod, l *leaf, bundle string) string {
	switch {
	case !s.git.since[l.digest].IsZero():
		return revokedKey
	case s.hungMeanwhile(p, l, bundle):
		return hungMeanwhile
	case !s.now.Add(maxSkew).After(l.certificate.NotAfter):
	case s.broughtBack(p, l):
		return broughtBack
	case s.renewedLate(p, l):
		return renewedLate
	}
	return ""
}

// hungMeanwhile tells whether what a pod has was gone from the branch for a day already while the replacement of the
// authorities went on: a day is how long each step waits.
func (s *simulation) hungMeanwhile(p *pod, l *leaf, bundle string) bool {
	old := min(s.git.last(func(c *commit) bool { return c.leaves[p.key()] == l }), s.git.last(func(c *commit) bool { return c.bundle == bundle }))
	return old >= 0 && s.now.Sub(s.git.until(old)) >= maxApply && slices.ContainsFunc(s.git.heads[old+1:], func(c *commit) bool { return c.replaces })
}

// last is the index of the newest head for which something is true, or -1.
func (g *git) last(is func(*commit) bool) int {
	for i, c := range slices.Backward(g.heads) {
		if is(c) {
			return i
		}
	}
	return -1
}

// broughtBack tells whether a revert put the leaf back on the branch, where it stayed until it was too late for the
// node to get another before it expired. A running pod does not use such a leaf, one that starts has nothing else.
func (s *simulation) broughtBack(p *pod, l *leaf) bool {
	for i, c := range s.git.heads {
		if c.reverted && c.leaves[p.key()] == l && p.replica.node.mustHave(s.git.until(i)).After(l.certificate.NotAfter.Add(-maxSkew)) {
			return true
		}
	}
	return false
}

// renewedLate tells whether an expired leaf is the fault of nobody but those who rendered too late, or of a node that
// hung for longer than what was left of it. A render in the window of renewal that kept the leaf is a fault, and so is
// a newer leaf that lay on the branch for long enough and did not arrive.
func (s *simulation) renewedLate(p *pod, l *leaf) bool {
	end := l.certificate.NotAfter
	window := end.Add(-s.git.config.Spec.Certificates.RenewBefore.Duration)
	for _, r := range s.git.renders {
		if r.leaves[p.key()] == l && r.at.After(window.Add(maxSkew)) {
			return false
		}
	}
	for i, c := range s.git.heads {
		newer := c.leaves[p.key()]
		if newer == nil || !newer.certificate.NotAfter.After(end) {
			continue
		}
		if deadline := p.replica.node.mustHave(c.from); !deadline.After(end.Add(-maxSkew)) && !deadline.After(s.git.until(i)) {
			return false
		}
	}
	return true
}

// mustHave is when the pods of a node must have what was merged at a time.
func (n *node) mustHave(merged time.Time) time.Time {
	deadline := merged.Add(maxApply)
	for _, stuck := range n.stuck {
		if !stuck.from.After(deadline) && stuck.to.After(merged) && stuck.to.After(deadline) {
			deadline = stuck.to
		}
	}
	return deadline.Add(2 * maxSwap)
}

// judgeRefusal records that a pod does not use the files that it got. It keeps its last good ones, if it has any.
func (s *simulation) judgeRefusal(p *pod, l *leaf, err error) {
	if p.refused == l {
		return
	}
	p.refused = l
	why := s.dead(p, l, p.ca.bundle)
	if why == "" && p.secret != p.ca && s.git.fresh[string(l.certificate.AuthorityKeyId)] {
		why = startedAnew
	}
	if why != "" {
		s.record.excuse(why)
		return
	}
	k := refusedOwn
	if p.leaf == nil {
		k = cannotStart
	}
	s.record.fail(k, s.now, "%s on a clock that is off by %s: %v", p.key(), p.replica.node.skew, err)
}

// audit judges a commit before it is merged: what the function promises of every render, seen from outside.
func (s *simulation) audit(c *commit) {
	now := s.now
	b := s.git.trust(c.bundle, c.revoked).bundle
	known := map[string]time.Time{} // key ID → expiry
	for _, ca := range b.Authorities() {
		known[string(ca.SubjectKeyId)] = ca.NotAfter
	}
	for key, l := range c.leaves {
		signer := string(l.certificate.AuthorityKeyId)
		if expiry, ok := known[signer]; ok && l.certificate.NotAfter.After(expiry) {
			s.record.fail(outlives, now, "%s: the leaf ends at %s, its authority at %s", key, l.certificate.NotAfter, expiry)
		}
		if _, err := b.Verify(l.chain(), roles[0], now.Add(maxSkew)); err != nil {
			s.record.fail(badCommit, now, "%v", err)
		}
		s.auditSigner(l, signer)
	}
	for _, l := range s.git.leaves {
		// an authority that is replaced goes ahead of time; whether that is too early, handshakes say
		_, ok := known[string(l.certificate.AuthorityKeyId)]
		if !ok && l.merged && !s.git.replaced[string(l.certificate.AuthorityKeyId)] && l.certificate.NotAfter.After(now.Add(maxSkew)) {
			s.record.fail(lostAuthority, now, "a leaf of %s that expires at %s", l.workload, l.certificate.NotAfter)
		}
	}
}

// auditSigner wants every authority but the first to have stood in the bundles of the branch for as long as a healthy
// node may take before it signs, unless nobody who is alive could miss it.
func (s *simulation) auditSigner(l *leaf, signer string) {
	for _, id := range s.git.signers {
		if id == signer {
			return
		}
	}
	s.git.signers = append(s.git.signers, signer)
	if len(s.git.signers) == 1 {
		return
	}
	s.record.promotions++
	since := s.git.published[signer]
	if s.git.fresh[signer] = since.IsZero() && !s.anyAlive(); s.git.fresh[signer] {
		return
	}
	if s.anyAlive() && (since.IsZero() || s.now.Sub(since) < cmp.Or(s.profile.apply, maxApply)+2*maxSwap) {
		s.record.fail(unannounced, s.now, "the leaf of %s is signed by an authority that was merged at %s", l.workload, since)
	}
}

func (s *simulation) anyAlive() bool {
	for _, l := range s.matrix.leaves {
		if l.certificate.NotAfter.After(s.now) {
			return true
		}
	}
	return false
}
