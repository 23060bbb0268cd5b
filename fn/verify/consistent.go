package verify

import (
	"maps"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/svid"
)

// Consistent reports where the bundles say something else than the CertificateAuthority beside them, or that they
// share: a build reads the bundles alone, so one that was edited trusts whom nobody issues for, and accepts what is
// revoked. Shared says that the authority is that of --ca, of which Behind reports what is missing.
func Consistent(s, authority *State, shared bool, now time.Time, r *report.Report) {
	if !authority.HasAuthority {
		return
	}
	const way = "restore both from one commit, or run `meshless issue` and commit the result"
	for _, namespace := range slices.Sorted(maps.Keys(s.Bundles)) {
		for _, ca := range s.Bundles[namespace] {
			if !slices.ContainsFunc(authority.Authorities.Certificates(), ca.Equal) && !slices.Contains(s.additional[namespace], svid.Fingerprint(ca)) && !now.After(ca.NotAfter) {
				r.Error(report.Object{}, "", "the bundle of namespace %q trusts %q, which the CertificateAuthority does not know: it could make any identity there; %s", namespace, ca.Subject, way)
			}
		}
		if shared {
			continue
		}
		for _, a := range authority.Authorities.Trusted(now) {
			if !slices.ContainsFunc(s.Bundles[namespace], a.Certificate.Equal) && !now.After(a.Certificate.NotAfter) {
				r.Error(report.Object{}, "", "the bundle of namespace %q lacks authority %q, which is %s in the CertificateAuthority; %s", namespace, a.Certificate.Subject.CommonName, a.Slot, way)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(authority.Revoked)) {
			if !authority.Revoked[key].Until.IsZero() && authority.stillRevoked(key, now) && !slices.Contains(s.listed[namespace], key) {
				r.Error(report.Object{}, "", "the bundle of namespace %q does not list key %s, which the CertificateAuthority revokes: a build would accept it; %s", namespace, key, way)
			}
		}
	}
}
