package simulation

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/internal/svid"
)

// Authorities of every algorithm sign leaves of every algorithm beside them, and what is written into the state and
// read back verifies on both sides of TLS.
func TestEveryAlgorithmRoundTrips(t *testing.T) {
	algorithms := v1alpha1.KeyAlgorithms
	for i, ofCA := range algorithms {
		for _, ofLeaf := range []string{ofCA, algorithms[(i+1)%len(algorithms)]} {
			t.Run(ofCA+" signs "+ofLeaf, func(t *testing.T) {
				t.Parallel()
				p := certs.Profile{TrustDomain: trustDomain, Algorithm: ofCA, Validity: 30 * day, RenewBefore: 15 * day, SigningPeriod: 90 * day}
				authorities := stored(t, mustRoll(t, p, nil, time.Time{}, start))
				p.Algorithm = ofLeaf
				id := spiffeid.RequireFromPath(trustDomain, "/ns/prod/deployment/web")
				made, err := p.Issue(certs.Request{ID: id, DNSNames: []string{"web.prod"}}, authorities.In(v1alpha1.SlotActive), start)
				if err != nil {
					t.Fatal(err)
				}
				chain, err := svid.ParseCertificates(svid.EncodeCertificates(made.Certificate))
				if err != nil {
					t.Fatal(err)
				}
				for _, role := range roles {
					if got, err := mustBundle(t, authorities).Verify(chain, role, start); err != nil || got != id {
						t.Errorf("verified as %q, %v", got, err)
					}
				}
				if !sameKey(chain[0], roundTrip(t, made.Key)) {
					t.Error("the key that is read back is not the leaf's")
				}
			})
		}
	}
}

// stored writes authorities into the form of the state and reads them, keys too.
func stored(t *testing.T, l certs.Authorities) certs.Authorities {
	t.Helper()
	text, err := json.Marshal(v1alpha1.CertificateAuthority{Spec: l.State(trustDomain, nil)})
	if err != nil {
		t.Fatal(err)
	}
	var state v1alpha1.CertificateAuthority
	if err := json.Unmarshal(text, &state); err != nil {
		t.Fatal(err)
	}
	read, err := certs.ParseAuthorities(&state, trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range l {
		encoded, err := svid.EncodeKey(a.Key)
		if err == nil {
			err = read[i].Unlock(encoded)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return read
}

func roundTrip(t *testing.T, key crypto.Signer) crypto.Signer {
	t.Helper()
	encoded, err := svid.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := svid.ParseKey(encoded)
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

func sameKey(c *x509.Certificate, key crypto.Signer) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

func mustRoll(t *testing.T, p certs.Profile, l certs.Authorities, lastExpiry, now time.Time) certs.Authorities {
	t.Helper()
	rolled, err := p.Roll(l, lastExpiry, now)
	if err != nil {
		t.Fatal(err)
	}
	return rolled
}

func mustBundle(t *testing.T, l certs.Authorities) *svid.Bundle {
	t.Helper()
	b, err := l.Bundle(trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// issuer is a render's planning without manifests and sealing, so that thousands of renders take a second.
type issuer struct {
	t      *testing.T
	policy certs.Profile
	state  certs.Authorities
	leaves []certs.Request
	issued []*x509.Certificate // every leaf that ever was
	now    time.Time
	last   time.Time // the render before
}

// render plans and issues, and holds the result against what the design promises.
func (i *issuer) render() {
	alive := slices.ContainsFunc(i.issued, func(c *x509.Certificate) bool { return c.NotAfter.After(i.now) })
	before := i.state
	i.state = mustRoll(i.t, i.policy, before, i.lastExpiry(), i.now)
	bundle, active := mustBundle(i.t, i.state), i.state.In(v1alpha1.SlotActive)
	if again := mustRoll(i.t, i.policy, i.state, i.lastExpiry(), i.now); !slices.Equal(again, i.state) {
		i.t.Errorf("%s: a second render at once rolls again", i.now)
	}
	if len(before) > 0 && alive && !slices.ContainsFunc(before, func(a *certs.Authority) bool { return a.Certificate == active.Certificate }) {
		i.t.Errorf("%s: with live leaves, an authority signs that the render of %s did not publish", i.now, i.last)
	}
	for n := range i.leaves {
		i.leaves[n].Active = active.Certificate
		if i.policy.Evaluate(i.leaves[n], bundle, i.now).None() {
			continue
		}
		leaf, err := i.policy.Issue(i.leaves[n], active, i.now)
		if err != nil {
			i.t.Fatal(err)
		}
		if leaf.Certificate.NotAfter.After(active.Certificate.NotAfter) {
			i.t.Errorf("%s: a leaf outlives its authority", i.now)
		}
		i.leaves[n].Stored = &certs.Stored{LeafPEM: string(svid.EncodeCertificates(leaf.Certificate)), Record: i.policy.Record(leaf.Certificate, "")}
		i.issued = append(i.issued, leaf.Certificate)
	}
	i.issued = slices.DeleteFunc(i.issued, func(c *x509.Certificate) bool { return !c.NotAfter.After(i.now) })
	for _, c := range i.issued { // also those that were replaced: a node may still present them
		if _, err := bundle.VerifyLeaf(c, i.now); err != nil {
			i.t.Errorf("%s: the bundle does not accept a leaf that lives until %s: %v", i.now, c.NotAfter, err)
		}
	}
	i.last = i.now
}

func (i *issuer) lastExpiry() (last time.Time) {
	for _, r := range i.leaves {
		if r.Stored == nil {
			continue
		}
		if c, err := svid.ParseCertificates([]byte(r.Stored.LeafPEM)); err == nil && c[0].NotAfter.After(last) {
			last = c[0].NotAfter
		}
	}
	return last
}

// Whatever the times of renders: no leaf outlives its authority, the bundle accepts every live leaf, and no authority
// signs unannounced.
func TestRandomRenderTimes(t *testing.T) {
	for seed := range uint64(20 * len(seeds(t))) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			i := &issuer{t: t, policy: randomPolicy(rng), now: start}
			for n := range 3 {
				id := spiffeid.RequireFromPath(trustDomain, fmt.Sprintf("/ns/prod/deployment/app-%d", n))
				i.leaves = append(i.leaves, certs.Request{ID: id})
			}
			for range 150 {
				i.render()
				i.now = i.now.Add(randomGap(rng, i.policy))
				if t.Failed() {
					t.Fatalf("policy %+v", i.policy)
				}
			}
		})
	}
}

// The docs promise that an authority is trusted until the last leaf that it signed has expired. A leaf that was
// replaced since the validity became shorter counts too.
func TestShorterValidity(t *testing.T) {
	i := &issuer{t: t, now: start, policy: certs.Profile{TrustDomain: trustDomain, Algorithm: "ECDSA-P256", Validity: 60 * day, RenewBefore: 30 * day, SigningPeriod: 90 * day}}
	i.leaves = []certs.Request{{ID: spiffeid.RequireFromPath(trustDomain, "/ns/prod/deployment/web")}}
	for _, at := range []int{0, 40, 80} { // the last of these leaves lives until day 140
		i.now = start.Add(time.Duration(at) * day)
		i.render()
	}
	i.policy.Validity, i.policy.RenewBefore = 30*day, 15*day
	for _, at := range []int{85, 90, 122} { // replaced, promoted, and dropped a day after now and the shorter validity
		i.now = start.Add(time.Duration(at) * day)
		i.render()
	}
}

func randomPolicy(rng *rand.Rand) certs.Profile {
	p := certs.Profile{TrustDomain: trustDomain, Algorithm: "ECDSA-P256"}
	p.Validity = time.Duration(1+rng.IntN(90))*day + time.Duration(rng.IntN(3600))*time.Second
	p.RenewBefore = p.Validity / time.Duration(2+rng.IntN(3))
	p.SigningPeriod = time.Duration(2+rng.IntN(200)) * day
	return p
}

// randomGap is mostly short against the life of a leaf, sometimes long, now and then longer than anything lives.
func randomGap(rng *rand.Rand, p certs.Profile) time.Duration {
	limit := []time.Duration{time.Hour, p.RenewBefore, p.RenewBefore, p.Validity, p.Validity, p.SigningPeriod, 3 * (p.SigningPeriod + p.Validity)}[rng.IntN(7)]
	return time.Second + time.Duration(rng.Int64N(int64(limit)))
}

// A render at any time before something is due changes not a byte; when it is due, it does.
func TestNothingDueIsByteIdentical(t *testing.T) {
	p := small
	p.workloads, p.days = 4, 0
	s := newSimulation(t, p, mutant{}, 1)
	items := s.runFunction(s.edit(nil), start)
	for range 12 {
		due := s.nextDue(items)
		for range 2 {
			at := s.now.Add(s.between(0, due.Sub(s.now)))
			if again := s.runFunction(items, at); text(t, again) != text(t, items) {
				t.Errorf("due is %s; a render at %s changed something", due, at)
			}
		}
		s.now = due.Add(s.between(time.Second, 2*day))
		changed := s.runFunction(items, s.now)
		if text(t, changed) == text(t, items) {
			t.Errorf("due is %s; a render at %s changed nothing", due, s.now)
		}
		items = changed
	}
	if len(s.record.failures) > 0 {
		t.Error(s.record.text())
	}
}

// nextDue is when the state asks for a change: a leaf, a promotion, or a retired authority that goes.
func (s *simulation) nextDue(items []*yaml.RNode) time.Time {
	c := s.git.config.Spec.Certificates
	var due time.Time
	sooner := func(at time.Time) {
		if due.IsZero() || at.Before(due) {
			due = at
		}
	}
	for _, l := range s.read(items).leaves {
		sooner(l.certificate.NotAfter.Add(-c.RenewBefore.Duration))
	}
	for _, a := range s.authoritiesOf(items) {
		switch a.Slot {
		case v1alpha1.SlotActive:
			sooner(a.ActiveSince.Add(c.CA.SigningPeriod.Duration))
		case v1alpha1.SlotRetired:
			sooner(a.TrustedUntil)
		}
	}
	return due
}

func text(t *testing.T, items []*yaml.RNode) string {
	t.Helper()
	var out strings.Builder
	for _, item := range items {
		out.WriteString("---\n" + item.MustString())
	}
	return out.String()
}
