//go:build e2e && linux

package rotation

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/app/load"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

const namespace = "rotation"

// days before now is when a step is made, so that all that follow of 25 days are past, and what was made is valid now.
func days(before float64) time.Time {
	return time.Now().Add(-time.Duration(before * 24 * float64(time.Hour)))
}

// rotation is the chain while it is changed.
type rotation struct {
	*stage.Chain
	here bool               // the test can knock at pods
	cuts map[string]float64 // stage.Chain.Cuts, when the last change was seen
}

// outcome is what a change did while it came into force.
type outcome struct {
	stats map[string]load.Stats
	cuts  map[string]float64 // connections that were cut
}

// TestRotation deploys the chain once; the steps change it one after the other.
func TestRotation(t *testing.T) {
	r := &rotation{Chain: stage.NewChain(t, namespace)}
	r.Visit(t)
	stage.Must(t, stage.Outsider(5, "http://back:8080/"), "-n", namespace, "apply", "-f", "-")
	r.Issue(t, days(25))
	r.Apply(t)
	r.Rollout(t)
	r.here = stage.Here(t, r.IPs()...)
	if r.here && os.Geteuid() == 0 {
		wire := lab.SearchHost(t, stage.Marker)
		defer func() {
			wire.Stop()
			for way, n := range wire.Seen[stage.Marker] {
				t.Errorf("%d frames with a request passed in the clear: %s; the first of all at %s", n, way, wire.First[stage.Marker])
			}
			t.Logf("%d frames, %d missed", wire.Frames, wire.Missed())
			r.Plaintext(t)
		}()
	}
	r.InForce(t)
	r.settle(t)
	first := r.open(t, "back") // of the connections that live on
	for _, step := range []struct {
		name string
		test func(*testing.T)
	}{
		{"Permissive becomes Strict", r.testStrict},
		{"leaves are renewed", r.testRenewal},
		{"an authority is promoted, and the next one published", r.testPromotion},
		{"a key that was replaced before is revoked", func(t *testing.T) { r.testRevokeOld(t, first) }},
		{"the present key of a workload is revoked", r.testRevokePresent},
		{"the recipient changes", r.testRecipient},
		{"the policy names one caller", r.testPolicy},
		{"the authorities are replaced", r.testReplaceCA},
	} {
		started := time.Now()
		if !t.Run(step.name, step.test) {
			r.Warnings(t)
			return // what follows would only tell it again
		}
		t.Logf("%s: %v", step.name, time.Since(started).Round(time.Second))
	}
}

// settle waits until every caller gets what it asks for, after a rollout in which some asked before others were there.
func (r *rotation) settle(t *testing.T) {
	t.Helper()
	r.TakeStats(t)
	r.AwaitRequests(t, 40, stage.Everyone...)
	r.TakeStats(t)
	r.cuts = r.Cuts(t)
}

// apply commits: render, apply, and wait until it is in force. Then it lets the load go on for a while, and returns
// what came of it all.
func (r *rotation) apply(t *testing.T) outcome {
	t.Helper()
	r.Apply(t)
	r.InForce(t)
	return r.after(t)
}

func (r *rotation) after(t *testing.T) outcome {
	t.Helper()
	r.AwaitRequests(t, 40, stage.Everyone...)
	o := outcome{stats: r.TakeStats(t), cuts: r.Cuts(t)}
	for app, before := range r.cuts {
		r.cuts[app], o.cuts[app] = o.cuts[app], o.cuts[app]-before
	}
	t.Logf("under it:\n%s\nconnections that were cut: %v", stage.Describe(o.stats), o.cuts)
	r.Unchanged(t)
	r.wantServed(t)
	return o
}

// wantServed wants the leaf that was applied last in a handshake with each server.
func (r *rotation) wantServed(t *testing.T) {
	t.Helper()
	if !r.here {
		return
	}
	middle := r.open(t, "middle")
	for _, p := range r.Of("front", "middle", "back") {
		shown, err := stage.Knock(t, p, middle)
		if err != nil && p.App == "back" {
			// it is let in anywhere but where a policy says otherwise; here it is the one that a policy names
			t.Errorf("%s refuses middle: %v", p.Name, err)
		}
		if want := r.Rendered.Leaves[r.ID(p.App)]; shown == nil || !shown.Equal(want) {
			t.Errorf("%s shows another leaf than the one that was applied (%v)", p.Name, err)
		}
	}
}

func (r *rotation) open(t *testing.T, deployment string) tls.Certificate {
	t.Helper()
	c, err := r.Rendered.Open(r.ID(deployment), r.Folder.Cluster)
	if err != nil {
		t.Fatalf("open the key of %s: %v", deployment, err)
	}
	return c
}

// wantNoFailure wants no failed request of the callers.
func (o outcome) wantNoFailure(t *testing.T, callers ...string) {
	t.Helper()
	for _, caller := range callers {
		if s := o.stats[caller]; s.Requests == 0 || s.Failed > 0 {
			t.Errorf("%s: %s; want none that failed", caller, s)
		}
	}
}

// wantUnnoticed wants no failed request of anybody, and no connection that was cut: kept ones live on.
func (o outcome) wantUnnoticed(t *testing.T) {
	t.Helper()
	o.wantNoFailure(t, stage.Everyone...)
	for app, n := range o.cuts {
		if n != 0 {
			t.Errorf("%s: %v connections were cut", app, n)
		}
	}
}

// wantCut wants that connections of one of the Deployments were cut.
func (o outcome) wantCut(t *testing.T, apps ...string) {
	t.Helper()
	if !slices.ContainsFunc(apps, func(app string) bool { return o.cuts[app] > 0 }) {
		t.Errorf("no connection of %v was cut", apps)
	}
}

// testStrict: an outsider's plaintext passes before and not after.
func (r *rotation) testStrict(t *testing.T) {
	before := r.TakeStatsOf(t, "outsider")
	if before.Requests == 0 || before.Failed == before.Requests {
		t.Errorf("the outsider should get in as long as the mode is Permissive: %s", before)
	}
	r.Folder.Replace(t, "mtls.yaml", "mode: Permissive", "mode: Strict")
	r.Issue(t, days(24))
	r.apply(t).wantUnnoticed(t)
	r.TakeStatsOf(t, "outsider")
	r.wantOutsiderRefused(t)
	stage.Must(t, "", "-n", namespace, "delete", "pod", "outsider", "--wait=false")
}

// wantOutsiderRefused wants that no request of the outsider is answered any more.
func (r *rotation) wantOutsiderRefused(t *testing.T) {
	t.Helper()
	var after load.Stats
	stage.Poll(t, 20*time.Second, func() error {
		after.Add(r.TakeStatsOf(t, "outsider"))
		if after.Requests < 10 {
			return fmt.Errorf("the outsider has asked %d times", after.Requests)
		}
		return nil
	})
	if after.Failed != after.Requests {
		t.Errorf("the outsider gets in although the mode is Strict: %s", after)
	}
}

// testRenewal: every leaf is due, none of the bundles changes.
func (r *rotation) testRenewal(t *testing.T) {
	before := r.Rendered
	r.Issue(t, days(9.5))
	r.apply(t).wantUnnoticed(t)
	for id, leaf := range before.Leaves {
		if renewed := r.Rendered.Leaves[id]; renewed.Equal(leaf) || !signedBySame(renewed, leaf) {
			t.Errorf("%s was not renewed by the same authority", id)
		}
	}
	wantBundle(t, before.Bundle, r.Rendered.Bundle)
}

func signedBySame(a, b *x509.Certificate) bool {
	return string(a.AuthorityKeyId) == string(b.AuthorityKeyId)
}

func wantBundle(t *testing.T, want, got []*x509.Certificate) {
	t.Helper()
	if !slices.EqualFunc(want, got, (*x509.Certificate).Equal) {
		t.Errorf("the bundle has %d authorities, and not the %d that were expected", len(got), len(want))
	}
}

// testPromotion: the signing period is over. The authority that has been published all along signs from now on, and a
// third appears. Of the leaves only that of back changes, for which a new one is asked: pods with leaves of both
// authorities talk to each other.
func (r *rotation) testPromotion(t *testing.T) {
	before := r.Rendered
	r.Issue(t, days(6.9), "--renew", "deployment/back")
	r.apply(t).wantUnnoticed(t)
	for id, leaf := range before.Leaves {
		if same := r.Rendered.Leaves[id].Equal(leaf); same != (id != r.ID("back")) {
			t.Errorf("%s has the leaf of before: %v", id, same)
		}
	}
	if len(before.Bundle) != 2 || len(r.Rendered.Bundle) != 3 {
		t.Fatalf("the bundle had %d authorities and has %d, want 2 and 3", len(before.Bundle), len(r.Rendered.Bundle))
	}
	wantBundle(t, before.Bundle, r.Rendered.Bundle[:2])
	if string(r.Rendered.Leaves[r.ID("back")].AuthorityKeyId) != string(before.Bundle[1].SubjectKeyId) {
		t.Error("the leaf of back is not of the promoted authority")
	}
}

// testRevokeOld revokes the key that back had first: connections that it opened or took end, and no request fails.
func (r *rotation) testRevokeOld(t *testing.T, old tls.Certificate) {
	r.knock(t, "front", old, true)
	r.Meshless(t, days(6.7), "revoke", r.Folder.Dir, svid.KeyDigest(old.Leaf))
	seen := r.apply(t)
	seen.wantNoFailure(t, stage.Everyone...)
	seen.wantCut(t, "middle", "guest", "back") // connections that back had taken with that key, at one of their ends
	r.knock(t, "front", old, false)
	r.knock(t, "front", r.open(t, "back"), true)
}

// testRevokePresent is the runbook "One workload's key leaked". Whoever learns of it before middle has its new key
// refuses middle: that middle's connections fail in between is what the revocation is for. All other pairs go on, and
// in the end all do.
func (r *rotation) testRevokePresent(t *testing.T) {
	stolen := r.open(t, "middle")
	r.knock(t, "back", stolen, true)
	r.Meshless(t, days(6.6), "revoke", r.Folder.Dir, "deployment/middle")
	seen := r.apply(t)
	seen.wantNoFailure(t, "client", "guest")
	seen.wantCut(t, "middle", "front", "back")
	r.knock(t, "back", stolen, false)
	r.knock(t, "front", stolen, false)
	r.knock(t, "back", r.open(t, "middle"), true)
	r.after(t).wantUnnoticed(t)
}

// knock wants a certificate let in, or refused, by every pod of a Deployment.
func (r *rotation) knock(t *testing.T, deployment string, c tls.Certificate, welcome bool) {
	t.Helper()
	if !r.here {
		return
	}
	for _, p := range r.Of(deployment) {
		if _, err := stage.Knock(t, p, c); (err == nil) != welcome {
			t.Errorf("%s: the certificate of %s with key %s: %v; should it be let in? %v", p.Name, c.Leaf.URIs[0], svid.KeyDigest(c.Leaf), err, welcome)
		}
	}
}

// testRecipient: the cluster gets a new age identity beside the old one, and every key is made anew for the new
// recipient. testPolicy takes the old one out.
func (r *rotation) testRecipient(t *testing.T) {
	old, fresh := r.Folder.Cluster, example.NewIdentity(t)
	before := r.Rendered
	stage.Must(t, r.Folder.IdentitySecret(namespace, fresh, old), "apply", "-f", "-")
	r.Folder.Replace(t, "mtls.yaml", old.Recipient().String(), fresh.Recipient().String())
	r.Folder.Cluster = fresh
	r.Issue(t, days(6.5))
	r.apply(t).wantUnnoticed(t)
	for id, leaf := range before.Leaves {
		if svid.KeyDigest(r.Rendered.Leaves[id]) == svid.KeyDigest(leaf) {
			t.Errorf("%s has its old key", id)
		}
		if _, err := r.Rendered.Open(id, old); err == nil {
			t.Errorf("the old identity opens the key of %s", id)
		}
	}
}

// testPolicy: from now on middle alone may ask back. guest and the visitor of the other
// package, who could, are refused, and their open connections end. With it the old identity leaves the cluster.
func (r *rotation) testPolicy(t *testing.T) {
	stage.Must(t, r.Folder.IdentitySecret(namespace), "apply", "-f", "-")
	r.Folder.Replace(t, "mtls.yaml", "{rules: []}", "{rules: [{to: {kind: Deployment, name: back}, ports: [8080], from: [{kind: Deployment, name: middle}]}]}")
	r.Issue(t, days(6.4))
	seen := r.apply(t)
	seen.wantNoFailure(t, "client", "front", "middle")
	seen.wantCut(t, "guest", "back")
	r.AwaitRequests(t, 20, "guest", stage.Visitor)
	stats := r.TakeStats(t)
	for _, refused := range []string{"guest", stage.Visitor} {
		if s := stats[refused]; s.Failed != s.Requests {
			t.Errorf("%s still gets in: %s", refused, s)
		}
	}
	r.knock(t, "back", r.open(t, "guest"), false)
	r.knock(t, "back", r.open(t, "middle"), true)
}

// testReplaceCA is the runbook "The CA identity leaked": three runs, two days apart. Connections of leaves by the old
// authorities end with the last one.
func (r *rotation) testReplaceCA(t *testing.T) {
	allowed := []string{"client", "front", "middle"}
	before, minted := r.Rendered, r.open(t, "middle") // as a thief of the CA's key could mint it
	r.Issue(t, days(6), "--replace-ca")
	r.apply(t).wantNoFailure(t, allowed...)
	r.Issue(t, days(3.9))
	r.apply(t).wantNoFailure(t, allowed...)
	for id, leaf := range before.Leaves {
		if signedBySame(r.Rendered.Leaves[id], leaf) {
			t.Errorf("%s has a leaf of an authority that is being replaced", id)
		}
	}
	r.knock(t, "front", minted, true)
	r.Issue(t, days(1.8))
	seen := r.apply(t)
	seen.wantNoFailure(t, allowed...)
	seen.wantCut(t, "client", "front", "middle", "back")
	for _, ca := range before.Bundle {
		if slices.ContainsFunc(r.Rendered.Bundle, ca.Equal) {
			t.Errorf("authority %q is still trusted", ca.Subject)
		}
	}
	r.knock(t, "front", minted, false)
	r.knock(t, "front", r.open(t, "middle"), true)
}
