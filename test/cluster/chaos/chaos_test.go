//go:build e2e && linux

package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
)

const (
	namespace = "chaos"
	lasts     = 75 * time.Second
	every     = 2 * time.Second   // between two deaths, about
	back      = 150 * time.Second // until all is well again: a container that died twice is held back 20 s
)

// TestChaos deploys the chain, lets the machine die, and wants it back.
func TestChaos(t *testing.T) {
	stage.RequireNode(t)
	n := seed(t)
	t.Logf("CHAOS_SEED=%d", n)
	a := stage.NewChain(t, namespace)
	a.Visit(t)
	a.Folder.Replace(t, "mtls.yaml", "mode: Permissive", "mode: Strict")
	a.Issue(t, daysAgo(25))
	wire := stage.WatchWire(t, namespace, stage.Marker)
	a.Apply(t)
	a.Rollout(t)
	a.InForce(t)
	k := &killer{random: rand.New(rand.NewPCG(n, 0)), pods: a.Pods, killed: map[string]int{}}
	k.run(t, a)
	t.Logf("killed: %v", k.killed)
	a.Warnings(t)
	comeBack(t, a)
	wantAllTalk(t, a)
	wire.WantSecret(t)
	wantNoneInTheClear(t, a)
	a.Plaintext(t)
}

func daysAgo(n float64) time.Time { return time.Now().Add(-time.Duration(n * 24 * float64(time.Hour))) }

// commits are what happens meanwhile: renewal of every leaf, promotion of an authority, and revocation of a key.
func commits(t *testing.T, a *stage.Chain) []func() {
	return []func(){
		func() { a.Issue(t, daysAgo(9.5)) },
		func() { a.Issue(t, daysAgo(6.9), "--renew", "deployment/back", "--renew", "deployment/client") },
		func() { a.Meshless(t, daysAgo(6.6), "revoke", a.Folder.Dir, "deployment/middle") },
		func() {
			a.Issue(t, daysAgo(6.5), "--renew", "deployment/front", "--renew", "deployment/middle", "--renew", "deployment/guest")
		},
	}
}

// run kills until its time is over, and commits in between.
func (k *killer) run(t *testing.T, a *stage.Chain) {
	t.Helper()
	started, first, pending := time.Now(), k.order(), commits(t, a)
	part := lasts / time.Duration(len(pending)+1)
	for n, done := 0, 0; time.Since(started) < lasts; n++ {
		if done < len(pending) && time.Since(started) > time.Duration(done+1)*part {
			pending[done]()
			a.Apply(t)
			done++
		}
		kind := victims[k.random.IntN(len(victims))]
		if n < len(first) {
			kind = first[n]
		}
		k.kill(t, kind)
		time.Sleep(every/2 + time.Duration(k.random.Int64N(int64(every))))
	}
	for _, kind := range first {
		if k.killed[kind] == 0 {
			t.Errorf("in %v no %s was killed", lasts, kind)
		}
	}
}

// comeBack waits until every pod is Ready, the very ones of before, and every proxy uses what was committed last.
func comeBack(t *testing.T, a *stage.Chain) {
	t.Helper()
	started := time.Now()
	stage.Poll(t, back, func() error {
		pods, err := a.Present()
		if err != nil {
			return err
		}
		for _, p := range pods {
			if !p.Ready || !slices.ContainsFunc(a.Pods, func(b stage.Replica) bool { return b.UID == p.UID }) {
				return fmt.Errorf("%s: ready: %v, restarted %d times", p.Name, p.Ready, p.Restarts)
			}
		}
		if len(pods) != len(a.Pods) {
			return fmt.Errorf("%d pods, want %d", len(pods), len(a.Pods))
		}
		a.Pods = pods
		return nil
	})
	t.Logf("all pods are ready after %v", time.Since(started).Round(time.Second))
	a.InForce(t)
}

// wantAllTalk waits until so much time passes as a request has, in which nothing fails: Services learn last of all, and
// a request that was sent before they did is told at its end. Then it wants none of many fresh requests to fail.
func wantAllTalk(t *testing.T, a *stage.Chain) {
	t.Helper()
	t.Logf("during all that:\n%s", stage.Describe(a.TakeStats(t)))
	stage.Poll(t, 90*time.Second, func() error {
		time.Sleep(6 * time.Second) // a request of the load has 5 s
		for caller, s := range a.TakeStats(t) {
			if s.Failed > 0 || s.Requests == 0 {
				return errors.New(caller + ": " + s.String())
			}
		}
		return nil
	})
	a.AwaitRequests(t, 50, stage.Everyone...)
	for caller, s := range a.TakeStats(t) {
		if s.Failed > 0 {
			t.Errorf("%s, after all that: %s", caller, s)
		}
	}
}

// wantNoneInTheClear asks the proxies, too.
func wantNoneInTheClear(t *testing.T, a *stage.Chain) {
	t.Helper()
	for _, p := range a.Pods {
		metrics := stage.Metrics(t, namespace, p.Name)
		if n := stage.Opened(t, metrics, "inbound", "plaintext"); n > 0 {
			t.Errorf("%s took %v connections in the clear", p.Name, n)
		}
	}
}
