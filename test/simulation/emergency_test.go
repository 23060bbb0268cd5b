package simulation

import (
	"testing"
	"time"
)

// replaceCA replaces the authorities as after a leak of the CI's identity: a first render publishes a successor, and
// then people do what the function tells them to do next, as soon as it says that they may.
func (s *simulation) replaceCA() {
	if what, _ := s.authoritiesOf(s.git.head().items).NextStep(); what != "" || s.git.paused {
		return
	}
	s.git.replace = true
	s.record.replacements++
	s.propose(s.between(0, s.profile.review))
	s.after(s.profile.review+time.Hour, "follow", s.followReplacement)
}

func (s *simulation) followReplacement() {
	what, at := s.authoritiesOf(s.git.head().items).NextStep()
	if what == "" {
		return
	}
	wait := max(0, at.Sub(s.now)) + 2*maxSkew // their clock is wrong as well
	s.after(wait, "next step", func() { s.propose(s.between(0, s.profile.review)) })
	s.after(wait+s.profile.review+time.Hour, "follow", s.followReplacement)
}

// emergency is a fleet whose CI leaks its identity again and again. A replacement waits for two days, twice: one for
// the review, one for the nodes.
var emergency = profile{
	name: "emergency", days: 400, workloads: 12, nodes: 20, namespaces: 2, replicas: 3, apply: 23 * time.Hour,
	cadence: [2]time.Duration{5 * day, 6 * day}, churn: 20 * day, drain: 6 * time.Hour, revoke: 30 * day, recipients: 70 * day, replaceCA: 30 * day,
}

// Both authorities are replaced without a dropped handshake, and nodes that hang meanwhile are the only ones that pay.
func TestReplacedAuthorities(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(p *profile)
	}{
		{"in time", func(*profile) {}},
		{"nodes hang for a week", func(p *profile) { p.hang, p.stuck = 3*day, maxStuck }},
		{"a review takes most of a day", func(p *profile) { p.review = 23 * time.Hour }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := emergency
			test.change(&p)
			for _, seed := range seeds(t) {
				s := newSimulation(t, p, mutant{}, seed)
				s.run()
				t.Logf("seed %d: %d replacements, %s\n%s", seed, s.record.replacements, s.record.figures(), s.record.text())
				if s.record.replacements == 0 {
					t.Error("nothing was replaced")
				}
				if len(s.record.failures) > 0 {
					t.Errorf("seed %d: what the design promises does not hold", seed)
				}
			}
		})
	}
}
