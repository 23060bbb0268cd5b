package simulation

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// How slow a cluster is.
const (
	maxApply = day // from a merge until a node that is not stuck has the objects
	// from then until the kubelet has swapped a pod's volume; a torn one takes twice as long
	maxSwap  = 10 * time.Minute
	maxStuck = 7 * day
)

// fleet is what runs.
type fleet struct {
	nodes    []*node
	replicas map[string][]*replica // by workload
}

// node applies Git for its pods: GitOps engine, API server cache and kubelet in one.
type node struct {
	skew     time.Duration
	applied  *commit
	at       time.Time  // when
	stuck    []interval // the last may not have ended yet
	replicas []*replica
}

type interval struct{ from, to time.Time }

// replica is a pod's place; the pods in it come and go.
type replica struct {
	workload workload
	node     *node
	pod      *pod
}

// pod holds what the kubelet gave it, and what its proxy uses: the last good generation.
type pod struct {
	replica          *replica
	secret, ca, mesh *commit // where the files of its volume are from
	leaf             *leaf   // nil until it is live
	trust            *trust
	knows            map[string]bool // revoked keys that it has ever refused
	refused          *leaf           // of a generation that it refused and that was recorded
	retries          int
	dead             bool
}

func newFleet(s *simulation) fleet {
	f := fleet{replicas: map[string][]*replica{}}
	for range s.profile.nodes {
		f.nodes = append(f.nodes, &node{skew: s.between(-maxSkew, maxSkew)})
	}
	return f
}

func (n *node) isStuck(now time.Time) bool {
	return len(n.stuck) > 0 && n.stuck[len(n.stuck)-1].to.After(now)
}

// place gives a workload its replicas, each on some node.
func (s *simulation) place(w workload) {
	for range s.profile.replicas {
		n := s.fleet.nodes[s.rng.IntN(len(s.fleet.nodes))]
		r := &replica{workload: w, node: n}
		n.replicas = append(n.replicas, r)
		s.fleet.replicas[w.key()] = append(s.fleet.replicas[w.key()], r)
	}
}

// syncAll lets every node notice a merge: most within half an hour, some within a day.
func (s *simulation) syncAll() {
	for _, n := range s.fleet.nodes {
		delay := s.between(10*time.Second, 30*time.Minute)
		if s.rng.IntN(4) == 0 {
			delay = s.between(30*time.Minute, cmp.Or(s.profile.apply, maxApply))
		}
		s.after(delay, "apply", func() { s.apply(n) })
	}
}

// apply brings a node to the newest commit, unless it is stuck.
func (s *simulation) apply(n *node) {
	head := s.git.head()
	if n.isStuck(s.now) || n.applied == head {
		return
	}
	n.applied, n.at = head, s.now
	for _, r := range n.replicas {
		switch l := head.leaves[r.workload.key()]; {
		case l == nil && r.pod != nil:
			s.kill(r.pod)
		case l == nil:
		case r.pod == nil:
			s.after(s.between(10*time.Second, maxSwap), "start", func() { s.startPod(r, n) })
		case r.pod.differs(head):
			p := r.pod
			s.after(s.between(time.Second, maxSwap), "swap", func() { s.swap(p, false) })
		}
	}
}

// hang makes a node miss everything for up to a week; then it jumps to the newest commit.
func (s *simulation) hang() {
	n := s.fleet.nodes[s.rng.IntN(len(s.fleet.nodes))]
	if n.isStuck(s.now) {
		return
	}
	pause := s.between(day, s.profile.stuck)
	if s.rng.IntN(3) == 0 {
		pause = s.profile.stuck
	}
	n.stuck = append(n.stuck, interval{s.now, s.now.Add(pause)})
	s.after(pause, "unstuck", func() { s.apply(n) })
}

func (p *pod) differs(c *commit) bool {
	return p.secret.leaves[p.key()] != c.leaves[p.key()] || p.ca.bundle != c.bundle || !slices.Equal(p.mesh.revoked, c.revoked)
}

func (p *pod) key() string { return p.replica.workload.key() }

func (s *simulation) startPod(r *replica, n *node) {
	if r.pod != nil || r.node != n || n.applied == nil || n.applied.leaves[r.workload.key()] == nil {
		return
	}
	r.pod = &pod{replica: r, secret: n.applied, ca: n.applied, mesh: n.applied, knows: map[string]bool{}}
	s.load(r.pod)
}

// swap is what the kubelet does: it takes the objects as its caches hold them. The caches of Secrets and ConfigMaps are
// not of one moment, so what a pod gets may be torn until the next sync.
func (s *simulation) swap(p *pod, whole bool) {
	applied := p.replica.node.applied
	if p.dead || applied.leaves[p.key()] == nil {
		return
	}
	parts := 7
	if !whole && s.rng.IntN(3) == 0 {
		parts = 1 + s.rng.IntN(6)
		s.after(s.between(time.Minute, maxSwap), "swap the rest", func() { s.swap(p, true) })
	}
	for i, part := range []**commit{&p.secret, &p.ca, &p.mesh} {
		if parts&(1<<i) != 0 {
			*part = applied
		}
	}
	p.retries = 0
	s.load(p)
}

// load is what the proxy does with new files (proxy/identity): what does not verify for itself is not used, the last
// good generation stays, and polls try again.
func (s *simulation) load(p *pod) {
	l, t := p.secret.leaves[p.key()], s.git.trust(p.ca.bundle, p.mesh.revoked)
	if p.dead || l == p.leaf && t == p.trust {
		return
	}
	if err := s.ownFiles(p, l, t); err != nil {
		s.judgeRefusal(p, l, err)
		p.retries++
		s.after(maxSwap<<min(p.retries, 8), "poll", func() { s.load(p) })
		return
	}
	if p.leaf != nil {
		s.matrix.part(p)
	}
	p.leaf, p.trust = l, t
	s.matrix.join(p)
	s.checkRevoked(p)
}

func (s *simulation) ownFiles(p *pod, l *leaf, t *trust) error {
	for _, role := range roles {
		id, err := t.bundle.Verify(l.chain(), role, s.now.Add(p.replica.node.skew))
		if err != nil {
			return err
		}
		if id.String() != p.replica.workload.id() {
			return fmt.Errorf("the certificate is of %s", id)
		}
	}
	return nil
}

func (s *simulation) kill(p *pod) {
	p.dead, p.replica.pod = true, nil
	if p.leaf != nil {
		s.matrix.part(p)
	}
}

// restart moves a pod to another node, as a drain does. It loses its last good generation.
func (s *simulation) restart() {
	n := s.fleet.nodes[s.rng.IntN(len(s.fleet.nodes))]
	if len(n.replicas) == 0 {
		return
	}
	r := n.replicas[s.rng.IntN(len(n.replicas))]
	if r.pod == nil {
		return
	}
	s.kill(r.pod)
	other := s.fleet.nodes[s.rng.IntN(len(s.fleet.nodes))]
	n.replicas = without(n.replicas, r)
	other.replicas = append(other.replicas, r) // may be the same node
	r.node = other
	s.after(s.between(10*time.Second, maxSwap), "start", func() { s.startPod(r, other) })
}
