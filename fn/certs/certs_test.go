package certs_test

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/internal/svid"
)

var (
	td    = spiffeid.RequireTrustDomainFromString("cluster.local")
	web   = spiffeid.RequireFromString("spiffe://cluster.local/ns/prod/deployment/web")
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

func policy(algorithm string) certs.Profile {
	return certs.Profile{TrustDomain: td, Algorithm: algorithm, Validity: 720 * time.Hour, RenewBefore: 360 * time.Hour, SigningPeriod: 2160 * time.Hour}
}

func roll(t testing.TB, p certs.Profile, l certs.Authorities, now time.Time) certs.Authorities {
	t.Helper()
	rolled, err := p.Roll(l, time.Time{}, now)
	if err != nil {
		t.Fatal(err)
	}
	return rolled
}

func issue(t testing.TB, p certs.Profile, r certs.Request, ca *certs.Authority, now time.Time) *certs.Leaf {
	t.Helper()
	leaf, err := p.Issue(r, ca, now)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func bundle(t testing.TB, l certs.Authorities) *svid.Bundle {
	t.Helper()
	b, err := l.Bundle(td)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Issue, parse and verify, for every algorithm that the config can ask for.
func TestEveryAlgorithm(t *testing.T) {
	for _, algorithm := range v1alpha1.KeyAlgorithms {
		t.Run(algorithm, func(t *testing.T) {
			skipSlow(t, algorithm)
			p := policy(algorithm)
			l := roll(t, p, nil, start)
			request := certs.Request{ID: web, DNSNames: []string{"web", "web.prod.svc"}, Recipients: "r"}
			leaf := issue(t, p, request, l.In(v1alpha1.SlotActive), start)
			for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
				if id, err := bundle(t, l).Verify([]*x509.Certificate{leaf.Certificate}, usage, start); err != nil || id != web {
					t.Errorf("verified as %s, %v", id, err)
				}
			}
			encoded, err := svid.EncodeKey(leaf.Key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := svid.ParseKey(encoded); err != nil {
				t.Error(err)
			}
			request.Stored = store(leaf, request)
			if reason := p.Evaluate(request, bundle(t, l), start); !reason.None() {
				t.Errorf("a fresh leaf is to be replaced: %s", reason.Text)
			}
		})
	}
}

func store(leaf *certs.Leaf, r certs.Request) *certs.Stored {
	return &certs.Stored{LeafPEM: string(svid.EncodeCertificates(leaf.Certificate)), Record: certs.Record{Recipients: r.Recipients, KeyDigest: svid.KeyDigest(leaf.Certificate)}}
}

func TestLeafAndAuthorityProfile(t *testing.T) {
	p := policy("ECDSA-P256")
	l := roll(t, p, nil, start)
	active, next := l.In(v1alpha1.SlotActive).Certificate, l.In(v1alpha1.SlotNext).Certificate
	leaf := issue(t, p, certs.Request{ID: web}, l.In(v1alpha1.SlotActive), start).Certificate
	if active.Subject.String() == next.Subject.String() || string(active.SubjectKeyId) == string(next.SubjectKeyId) || len(active.SubjectKeyId) == 0 {
		t.Error("authorities need a subject and a key ID of their own")
	}
	if !active.MaxPathLenZero || active.MaxPathLen != 0 || active.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || active.URIs[0].String() != "spiffe://cluster.local" {
		t.Error("the authority's profile is wrong")
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 2 || len(leaf.URIs) != 1 || leaf.Subject.String() != "" {
		t.Error("the leaf's profile is wrong")
	}
	for _, c := range []*x509.Certificate{active, next, leaf} {
		if c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() > 128 || !c.NotBefore.Equal(start.Add(-10*time.Minute)) {
			t.Errorf("serial %d, valid from %s", c.SerialNumber, c.NotBefore)
		}
	}
	if minimum := start.Add(2*p.SigningPeriod + p.Validity); active.NotAfter.Before(minimum) {
		t.Errorf("the authority ends at %s; waiting, signing and the last leaf need until %s", active.NotAfter, minimum)
	}
	if string(leaf.AuthorityKeyId) != string(active.SubjectKeyId) {
		t.Error("the leaf does not name its authority")
	}
}

// Every reason to replace a leaf, each alone.
func TestEvaluate(t *testing.T) {
	p := policy("ECDSA-P256")
	l := roll(t, p, nil, start)
	foreign := roll(t, p, nil, start)
	request := certs.Request{ID: web, DNSNames: []string{"web"}, Recipients: "r"}
	leaf := issue(t, p, request, l.In(v1alpha1.SlotActive), start)
	request.Stored = store(leaf, request)
	for name, test := range map[string]struct {
		change func(p *certs.Profile, r *certs.Request)
		now    time.Time
		want   string
		due    bool
	}{
		"kept":           {func(*certs.Profile, *certs.Request) {}, start.Add(359 * time.Hour), "", false},
		"due":            {func(*certs.Profile, *certs.Request) {}, start.Add(361 * time.Hour), "it expires at", true},
		"expired":        {func(*certs.Profile, *certs.Request) {}, start.Add(721 * time.Hour), "expired", false},
		"not yet valid":  {func(*certs.Profile, *certs.Request) {}, start.Add(-time.Hour), "valid only from", false},
		"missing":        {func(_ *certs.Profile, r *certs.Request) { r.Stored = nil }, start, "it has none yet", false},
		"unparsable":     {func(_ *certs.Profile, r *certs.Request) { r.Stored.LeafPEM = "x" }, start, "exactly one certificate", false},
		"other workload": {func(_ *certs.Profile, r *certs.Request) { r.ID = spiffeid.RequireFromPath(td, "/ns/prod/job/x") }, start, "its certificate is for", false},
		"other authority": {func(_ *certs.Profile, r *certs.Request) {
			r.Stored = store(issue(t, p, *r, foreign.In(v1alpha1.SlotActive), start), *r)
		}, start, "no authority", false},
		"other key":   {func(_ *certs.Profile, r *certs.Request) { r.Stored.KeyDigest = "x" }, start, "different keys", false},
		"damaged key": {func(_ *certs.Profile, r *certs.Request) { r.Stored.KeyFault = "tls.key.age is damaged" }, start, "tls.key.age is damaged", false},
		"recipients":  {func(_ *certs.Profile, r *certs.Request) { r.Recipients = "s" }, start, "the recipients changed", false},
		"services":    {func(_ *certs.Profile, r *certs.Request) { r.DNSNames = []string{"api"} }, start, "the Services", false},
		"algorithm":   {func(p *certs.Profile, _ *certs.Request) { p.Algorithm = "Ed25519" }, start, "the key algorithm changed", false},
		"validity":    {func(p *certs.Profile, _ *certs.Request) { p.Validity = 100 * time.Hour }, start, "the validity changed", false},
	} {
		t.Run(name, func(t *testing.T) {
			p, r := p, request
			stored := *request.Stored
			r.Stored = &stored
			test.change(&p, &r)
			got := p.Evaluate(r, bundle(t, l), test.now)
			if got.Due != test.due || got.None() != (test.want == "") || !strings.Contains(got.Text, test.want) {
				t.Errorf("got %+v, want %q", got, test.want)
			}
		})
	}
}

// A leaf never outlives its authority, is not due as soon as it is made, and the policy does not ask for it again and
// again.
func TestLeafIsCutShortByItsAuthority(t *testing.T) {
	p := policy("ECDSA-P256")
	l := roll(t, p, nil, start)
	active := l.In(v1alpha1.SlotActive)
	now := active.Certificate.NotAfter.Add(-100 * time.Hour)
	request := certs.Request{ID: web}
	leaf := issue(t, p, request, active, now)
	if !leaf.Certificate.NotAfter.Equal(active.Certificate.NotAfter) {
		t.Errorf("the leaf ends at %s, its authority at %s", leaf.Certificate.NotAfter, active.Certificate.NotAfter)
	}
	request.Stored = store(leaf, request)
	if reason := p.Evaluate(request, bundle(t, l), now.Add(time.Hour)); !reason.None() {
		t.Errorf("it is to be replaced at once: %s", reason.Text)
	}
	if _, err := p.Issue(request, active, active.Certificate.NotAfter.Add(time.Hour)); err == nil {
		t.Error("an expired authority signed")
	}
}

func TestRoll(t *testing.T) {
	p := policy("ECDSA-P256")
	first := roll(t, p, nil, start)
	if same := roll(t, p, first, start.Add(p.SigningPeriod-time.Hour)); !slices.Equal(same, first) {
		t.Error("with nothing due, authorities changed")
	}
	due := start.Add(p.SigningPeriod)
	second := roll(t, p, first, due)
	if got := slots(second); got != "Retired Active Next" {
		t.Fatalf("after a period: %s", got)
	}
	if second.In(v1alpha1.SlotActive).Certificate != first.In(v1alpha1.SlotNext).Certificate {
		t.Error("the Active is not the former Next")
	}
	retired := second.In(v1alpha1.SlotRetired)
	if want := due.Add(p.Validity + 24*time.Hour); retired.Key != nil || retired.SealedKey != "" || !retired.TrustedUntil.Equal(want) {
		t.Errorf("the Retired is trusted until %s, want %s, and holds no key", retired.TrustedUntil, want)
	}
	if got := slots(roll(t, p, second, retired.TrustedUntil.Add(time.Second))); got != "Active Next" {
		t.Errorf("after its time, the Retired is still there: %s", got)
	}
	longAfter := first.In(v1alpha1.SlotActive).Certificate.NotAfter.Add(time.Hour)
	if got := roll(t, p, first, longAfter); slots(got) != "Active Next" || got.In(v1alpha1.SlotActive).Certificate.NotAfter.Before(longAfter) {
		t.Errorf("after everything expired: %s", slots(got))
	}
	last := due.Add(10 * 24 * time.Hour * 365)
	kept, err := p.Roll(first, last, due)
	if err != nil || kept.In(v1alpha1.SlotRetired).TrustedUntil.After(kept[0].Certificate.NotAfter.Add(24*time.Hour)) {
		t.Errorf("trusted until %s, longer than the certificate lives", kept.In(v1alpha1.SlotRetired).TrustedUntil)
	}
}

func slots(l certs.Authorities) string {
	var names []string
	for _, a := range l {
		names = append(names, string(a.Slot))
	}
	return strings.Join(names, " ")
}

// Whatever the gap between two renders and whatever changed in the policy, a render that follows at once finds nothing
// to roll, and with leaves out there no authority signs that was published less than a day ago.
func TestRollIsStable(t *testing.T) {
	for _, gap := range []int{1, 30, 89, 90, 100, 119, 205, 210, 230, 239, 240, 241, 300, 2000} {
		for _, validity := range []time.Duration{24 * time.Hour, 720 * time.Hour, 4320 * time.Hour, 8784 * time.Hour} {
			for _, period := range []time.Duration{24 * time.Hour, 2160 * time.Hour, 8000 * time.Hour} {
				for _, live := range []bool{true, false} {
					p := policy("ECDSA-P256")
					first := roll(t, p, nil, start)
					now := start.Add(time.Duration(gap) * 24 * time.Hour)
					p.Validity, p.SigningPeriod = validity, period
					expiry := now.Add(-time.Hour)
					if live {
						expiry = now.Add(time.Hour)
					}
					second, err := p.Roll(first, expiry, now)
					if err != nil {
						t.Fatal(err)
					}
					third, err := p.Roll(second, expiry, now)
					if err != nil || !slices.Equal(second, third) {
						t.Errorf("gap %d d, validity %s, period %s, live %v: %s, and at once again %s (%v)", gap, validity, period, live, slots(second), slots(third), err)
					}
					active := second.In(v1alpha1.SlotActive)
					known := slices.ContainsFunc(first, func(a *certs.Authority) bool { return a.Certificate == active.Certificate })
					if live && gap < 240 && !known {
						t.Errorf("gap %d d, validity %s, period %s: with live leaves, an authority signs that nobody knows", gap, validity, period)
					}
					if !live && active.Certificate.NotAfter.Before(now.Add(min(validity, 720*time.Hour))) {
						t.Errorf("gap %d d, validity %s, period %s: the Active ends at %s and cannot sign a leaf", gap, validity, period, active.Certificate.NotAfter)
					}
				}
			}
		}
	}
}

// A leaf that was cut short by an authority that does not sign any more is due, since the new one can sign a whole one.
func TestCutShortLeafIsDueAfterPromotion(t *testing.T) {
	p := policy("ECDSA-P256")
	l := roll(t, p, nil, start)
	old := l.In(v1alpha1.SlotActive)
	now := old.Certificate.NotAfter.Add(-100 * time.Hour)
	request := certs.Request{ID: web, Active: old.Certificate}
	request.Stored = store(issue(t, p, request, old, now), request)
	if reason := p.Evaluate(request, bundle(t, l), now); !reason.None() {
		t.Errorf("while its authority signs: %s", reason.Text)
	}
	request.Active = roll(t, p, nil, now)[0].Certificate
	if reason := p.Evaluate(request, bundle(t, l), now); !reason.Due {
		t.Errorf("when another signs it is not due: %+v", reason)
	}
}

func TestParseAuthoritiesRefuses(t *testing.T) {
	p := policy("ECDSA-P256")
	good := func() *v1alpha1.CertificateAuthority {
		return &v1alpha1.CertificateAuthority{Spec: roll(t, p, nil, start).State(td, nil)}
	}
	if _, err := certs.ParseAuthorities(good(), td); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*v1alpha1.CertificateAuthoritySpec)
		want   string
	}{
		"other trust domain": {func(s *v1alpha1.CertificateAuthoritySpec) { s.TrustDomain = "other" }, "a trust domain is not renamed"},
		"two active":         {func(s *v1alpha1.CertificateAuthoritySpec) { s.Authorities[1].Slot = v1alpha1.SlotActive }, "2 Active and 0 Next"},
		"none":               {func(s *v1alpha1.CertificateAuthoritySpec) { s.Authorities = nil }, "0 Active"},
		"truncated": {func(s *v1alpha1.CertificateAuthoritySpec) {
			s.Authorities[0].Certificate = s.Authorities[0].Certificate[:200]
		}, "broken PEM"},
		"twice": {func(s *v1alpha1.CertificateAuthoritySpec) {
			s.Authorities[1].Certificate = s.Authorities[0].Certificate
		}, "twice"},
		"a leaf": {func(s *v1alpha1.CertificateAuthoritySpec) {
			l := roll(t, p, nil, start)
			s.Authorities[0].Certificate = string(svid.EncodeCertificates(issue(t, p, certs.Request{ID: web}, l[0], start).Certificate))
		}, "is not an authority of"},
		"foreign": {func(s *v1alpha1.CertificateAuthoritySpec) {
			other := p
			other.TrustDomain = spiffeid.RequireTrustDomainFromString("other")
			s.Authorities[0].Certificate = string(svid.EncodeCertificates(roll(t, other, nil, start)[0].Certificate))
		}, "is not an authority of spiffe://cluster.local"},
	} {
		t.Run(name, func(t *testing.T) {
			state := good()
			test.change(&state.Spec)
			if _, err := certs.ParseAuthorities(state, td); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestUnlockWantsItsOwnKey(t *testing.T) {
	p := policy("ECDSA-P256")
	l := roll(t, p, nil, start)
	key, err := svid.EncodeKey(l[1].Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := l[0].Unlock(key); err == nil {
		t.Error("an authority took another's key")
	}
	if err := l[0].Unlock([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")); err == nil || strings.Contains(err.Error(), "AAAA") {
		t.Errorf("a damaged key: %v", err)
	}
}

func BenchmarkIssue(b *testing.B) {
	p := policy("ECDSA-P256")
	l := roll(b, p, nil, start)
	for b.Loop() {
		issue(b, p, certs.Request{ID: web, DNSNames: []string{"web"}}, l[0], start)
	}
}

func BenchmarkEvaluate(b *testing.B) {
	p := policy("ECDSA-P256")
	l := roll(b, p, nil, start)
	request := certs.Request{ID: web, DNSNames: []string{"web"}}
	request.Stored = store(issue(b, p, request, l[0], start), request)
	trusted := bundle(b, l)
	for b.Loop() {
		if reason := p.Evaluate(request, trusted, start); !reason.None() {
			b.Fatal(reason.Text)
		}
	}
}
