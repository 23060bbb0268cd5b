package simulation

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

// profile is a fleet and the habits of those who run it. A pause of zero means never.
type profile struct {
	name                                   string
	days                                   int
	workloads, nodes, namespaces, replicas int
	certificates                           string // what the config adds to the certificates

	cadence [2]time.Duration // from one scheduled render to the next
	review  time.Duration    // a pull request is merged after at most
	stuck   time.Duration    // a node hangs for at most
	apply   time.Duration    // a node that does not hang applies a merge after at most; default maxApply

	churn, hang, drain, revert, revoke, replaceCA, recipients, policy time.Duration // mean pauses
	// when nobody renders, and for how long; it may break the mesh
	silence [2]time.Duration
}

// slow is a fleet that is rendered every one to three weeks, with leaves that live for two months.
var slow = profile{
	name: "slow", days: 3*365 + 30, workloads: 160, nodes: 30, namespaces: 6, replicas: 2, certificates: ", validity: 1440h",
	cadence: [2]time.Duration{7 * day, 20 * day}, review: day, stuck: maxStuck,
	churn: 15 * day, hang: 3 * day, drain: 6 * time.Hour, revert: 90 * day, revoke: 60 * day, recipients: 300 * day,
}

// plain has the default policy and a weekly job.
var plain = profile{
	name: "default", days: 3*365 + 30, workloads: 40, nodes: 20, namespaces: 4, replicas: 2,
	cadence: [2]time.Duration{5 * day, 6 * day}, review: 12 * time.Hour, stuck: maxStuck,
	churn: 10 * day, hang: 3 * day, drain: 6 * time.Hour, revert: 60 * day, revoke: 45 * day, recipients: 300 * day,
}

// forgetful is plain, but for seven months nobody renders.
func forgetful(p profile) profile {
	p.name, p.workloads, p.nodes = "forgetful", 16, 12
	p.silence = [2]time.Duration{200 * day, 210 * day}
	return p
}

// fickle is plain, but its policy changes.
func fickle(p profile) profile {
	p.name, p.workloads, p.nodes = "fickle", 16, 12
	p.policy = 40 * day
	return p
}

// plan puts down what happens in any case.
func (s *simulation) plan() {
	p := s.profile
	for range p.workloads {
		s.newWorkload()
	}
	s.propose(0)
	s.schedule()
	s.every(p.churn, "churn", s.churn)
	s.every(p.hang, "hang", s.hang)
	s.every(p.drain, "restart", s.restart)
	s.every(p.revert, "revert", s.revert)
	s.every(p.revoke, "revoke", s.revoke)
	s.every(p.replaceCA, "replace the CA", s.replaceCA)
	s.every(p.recipients, "recipients", s.changeRecipients)
	s.every(p.policy, "policy", s.changePolicy)
	var tick func()
	tick = func() { s.matrix.tick(); s.checkThieves(); s.after(21*day, "tick", tick) }
	s.after(day, "tick", tick)
	if at, long := p.silence[0], p.silence[1]; long > 0 {
		s.after(at, "silence", func() { s.git.paused = true })
		s.after(at+long, "back", func() { s.git.paused = false; s.propose(0) })
	}
}

// schedule renders at the cadence of the profile.
func (s *simulation) schedule() {
	s.after(s.between(s.profile.cadence[0], s.profile.cadence[1]), "render", func() {
		if !s.git.paused {
			s.propose(s.between(0, s.profile.review))
		}
		s.schedule()
	})
}

// churn adds or removes a workload; the next render shows it, and often a developer does not wait for that.
func (s *simulation) churn() {
	if s.rng.IntN(2) == 0 || len(s.git.wanted) < s.profile.workloads/2 {
		s.newWorkload()
	} else {
		i := s.rng.IntN(len(s.git.wanted))
		s.git.wanted = slices.Delete(slices.Clone(s.git.wanted), i, i+1)
	}
	if !s.git.paused && s.rng.IntN(4) == 0 {
		s.propose(s.between(0, s.profile.review))
	}
}

// changeRecipients makes the next render issue every leaf anew.
func (s *simulation) changeRecipients() {
	s.git.config.Spec.Sealing.Recipients = []string{newIdentity(s.t).Recipient().String()}
}

// changePolicy changes lifetimes and algorithm.
func (s *simulation) changePolicy() {
	c := &s.git.config.Spec.Certificates
	// shorter ones: TestShorterValidity
	validity := max(c.Validity.Duration, []time.Duration{30 * day, 45 * day, 60 * day}[s.rng.IntN(3)])
	c.Validity.Duration, c.RenewBefore.Duration = validity, validity/2
	c.CA.SigningPeriod.Duration = []time.Duration{60 * day, 90 * day, 180 * day}[s.rng.IntN(3)]
	c.KeyAlgorithm = v1alpha1.KeyAlgorithms[s.rng.IntN(3)] // RSA keys take long to make
}

func seeds(t *testing.T) []uint64 {
	t.Helper()
	n := 1
	if text := os.Getenv("MESHLESS_SIM_SEEDS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			t.Fatalf("MESHLESS_SIM_SEEDS is %q, want a number of seeds", text)
		}
	}
	var list []uint64
	for i := range n {
		list = append(list, uint64(i+1))
	}
	return list
}

func TestThreeYears(t *testing.T) {
	for _, p := range []profile{slow, plain, forgetful(plain), fickle(plain)} {
		for _, seed := range seeds(t) {
			t.Run(fmt.Sprintf("%s/seed=%d", p.name, seed), func(t *testing.T) {
				t.Parallel()
				s := newSimulation(t, p, mutant{}, seed)
				began := time.Now()
				s.run()
				t.Logf("%d days in %s: %s\n%s", p.days, time.Since(began).Round(time.Millisecond), s.record.figures(), s.record.text())
				if len(s.record.failures) > 0 {
					t.Errorf("what the design promises does not hold: MESHLESS_SIM_SEEDS=%d repeats it", seed)
				}
				if s.record.promotions < 3 || s.record.reverts == 0 || s.record.revocations == 0 {
					t.Error("too little happened for a proof")
				}
				if late := s.record.excused[renewedLate]; late > 0 && p.silence[1] == 0 {
					t.Errorf("%d leaves expired although everybody was in time", late)
				}
			})
		}
	}
}

// The same seed is the same history, whatever the keys are; another seed is another.
func TestSeedsRepeat(t *testing.T) {
	t.Parallel()
	traces := map[uint64]int{}
	for _, seed := range []uint64{1, 1, 2} {
		s := newSimulation(t, small, mutant{}, seed)
		s.run()
		traces[s.trace]++
	}
	if len(traces) != 2 {
		t.Errorf("seeds 1, 1 and 2 make %d histories, want 2", len(traces))
	}
}
