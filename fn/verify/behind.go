package verify

import (
	"crypto/x509"
	"maps"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/svid"
)

// urgent is how long before an authority signs it is an error that a bundle does not hold it.
const urgent = 48 * time.Hour

// Behind reports what the bundles of a package lack of the CertificateAuthority that it shares with others, whose
// leaves its pods are to accept. The policy tells when the Next authority will sign.
func Behind(s, shared *State, p certs.Policy, now time.Time, r *report.Report) {
	trusted := shared.Authorities.Trusted(now)
	replacedLeaves(s, shared, r)
	for _, namespace := range slices.Sorted(maps.Keys(s.Bundles)) {
		bundle := s.Bundles[namespace]
		if !slices.ContainsFunc(bundle, func(ca *x509.Certificate) bool {
			return slices.ContainsFunc(shared.Authorities.Certificates(), ca.Equal)
		}) {
			r.Error(report.Object{}, "", "the bundle of namespace %q has no authority in common with the CertificateAuthority of --ca: it is another CA's", namespace)
			continue
		}
		for _, a := range trusted {
			if !slices.ContainsFunc(bundle, a.Certificate.Equal) {
				lacks(namespace, a, p.SignsUntil(shared.Authorities), now, r)
			}
		}
		for _, a := range shared.Authorities {
			if !slices.Contains(trusted, a) && slices.ContainsFunc(bundle, a.Certificate.Equal) {
				r.Warn(report.Object{}, "", "the bundle of namespace %q still trusts authority %q, which was dropped; run `meshless issue --ca` and commit the result", namespace, a.Certificate.Subject.CommonName)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(shared.Revoked)) {
			if shared.stillRevoked(key, now) && !slices.Contains(s.listed[namespace], key) {
				r.Error(report.Object{}, "", "the bundle of namespace %q does not list key %s, which is revoked; run `meshless issue --ca` and commit the result", namespace, key)
			}
		}
	}
}

// replacedLeaves reports leaves of authorities whose successor signs: they are dropped two days after it began to,
// wherever the CertificateAuthority is used.
func replacedLeaves(s, shared *State, r *report.Report) {
	replaced := shared.Authorities.Replaced()
	for _, id := range slices.Sorted(maps.Keys(s.Leaves)) {
		if ca := signerIn(replaced, s.Leaves[id]); ca != nil {
			r.Error(report.Object{}, "", "the certificate of %s is of authority %q, which has been replaced and is dropped everywhere within two days; run `meshless issue --ca` and sync at once", id, ca.Subject.CommonName)
		}
	}
}

// lacks reports that a bundle does not hold an authority: an error where leaves of it are out, or soon are.
func lacks(namespace string, a *certs.Authority, signs, now time.Time, r *report.Report) {
	name := a.Certificate.Subject.CommonName
	switch {
	case a.Slot != v1alpha1.SlotNext:
		r.Error(report.Object{}, "", "the bundle of namespace %q lacks authority %q, which is %s: leaves of it that other packages have are refused; run `meshless issue --ca` and sync at once", namespace, name, a.Slot)
	case signs.Sub(now) <= urgent:
		r.Error(report.Object{}, "", "the bundle of namespace %q lacks authority %q, which signs from %s on; run `meshless issue --ca` and sync before", namespace, name, signs.UTC().Format(time.RFC3339))
	default:
		r.Warn(report.Object{}, "", "the bundle of namespace %q lacks authority %q, which signs from %s on; run `meshless issue --ca` in time", namespace, name, signs.UTC().Format(time.RFC3339))
	}
}

// Deadlines reports what somebody has to do before minLeft is over: leaves that expire, and an Active authority that
// soon cannot sign whole leaves. What a late render only has to catch up with is a warning, whatever minLeft is.
func Deadlines(leaves []Leaf, s *State, p certs.Policy, minLeft time.Duration, now time.Time, r *report.Report) {
	for _, leaf := range leaves {
		if c := leaf.Certificate; minLeft > 0 && c != nil && now.Before(c.NotAfter) && c.NotAfter.Sub(now) < minLeft {
			r.Error(leaf.Secret, "", "expires at %s, which is nearer than --min-left %s; run `meshless issue` and commit the result", c.NotAfter.UTC().Format(time.RFC3339), minLeft)
		}
	}
	if !s.HasAuthority {
		return
	}
	last, next := p.LastSigning(s.Authorities), p.SignsUntil(s.Authorities)
	what, step := s.Authorities.Trusted(now).NextStep()
	switch {
	case minLeft > 0 && !last.IsZero() && last.Sub(now) < minLeft:
		r.Error(report.Object{}, "", "the Active authority signs whole certificates until %s only, which is nearer than --min-left %s; run `meshless issue` and commit the result", last.UTC().Format(time.RFC3339), minLeft)
	case what != "" && now.After(step):
		r.Warn(report.Object{}, "", "the CA is being replaced, and a step is due since %s (%s); run `meshless issue` and commit the result", step.UTC().Format(time.RFC3339), what)
	case what == "" && now.After(next):
		r.Warn(report.Object{}, "", "the Next authority should sign since %s; run `meshless issue` and commit the result", next.UTC().Format(time.RFC3339))
	}
}

// RevokedLeaves reports leaves whose key the same state revokes: an issue replaces them.
func RevokedLeaves(s *State, now time.Time, r *report.Report) {
	for _, id := range slices.Sorted(maps.Keys(s.Leaves)) {
		if key := svid.KeyDigest(s.Leaves[id]); s.stillRevoked(key, now) {
			r.Error(report.Object{}, "", "the certificate of %s has the key %s, which is revoked; run `meshless issue` and commit the result", id, key)
		}
	}
}
