package issue

import (
	"fmt"
	"slices"
	"time"

	"filippo.io/age"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
)

// The checks below span several packages. Every render makes them, also when nothing is due and when nothing may be
// issued. So what an edit, a merge or a revert broke is reported long before somebody needs it.

// checkAuthorities checks what package certs does not know: the time, and age files. A sealed key that is damaged would
// else be noticed when it is needed, which for Next is months later.
func (i *issuer) checkAuthorities(object report.Object, authorities certs.Authorities) {
	if err := authorities.CheckTimes(i.Now); err != nil {
		i.report.Error(object, "", "%v", err)
	}
	for n, a := range authorities {
		if a.SealedKey == "" {
			continue
		}
		if _, err := seal.CountRecipients(a.SealedKey); err != nil {
			i.report.Error(object, fmt.Sprintf("spec.authorities[%d].sealedKey", n), "%v; restore this object from Git", err)
		}
	}
}

// refuseUnpublished refuses an Active that no bundle knows: peers would refuse every leaf that it signs, and one that
// somebody has planted would sign the mesh. Packages that share their CertificateAuthority may learn of it late; they
// wait (deferUnpublished).
func (i *issuer) refuseUnpublished(authorities certs.Authorities) {
	if i.stored == nil || i.SharedCA || i.report.Failed() {
		return
	}
	for _, a := range authorities.Trusted(i.Now) {
		if a.Slot == v1alpha1.SlotNext || slices.ContainsFunc(i.stored, a.Certificate.Equal) || i.Now.After(a.Certificate.NotAfter) {
			continue
		}
		why := "so no pod would accept what it signs"
		if a.Slot == v1alpha1.SlotRetired {
			// it was Active once, so somebody has planted it, or dropped it from the bundles
			why = "and would be trusted anew"
		}
		i.report.ErrorIn(i.model.State.Authority, "spec.authorities", "its %s, %q, is in no bundle, %s: object and bundles are of different states, as after "+
			"a merge, a revert or a copy from elsewhere. Restore both from one commit", a.Slot, a.Certificate.Subject.CommonName, why)
		return
	}
}

// warnUnearned warns of a Retired that is trusted for longer than anything that it can have signed. It is no error: the
// merge of a branch in which it was still Active leaves such a date, too.
func (i *issuer) warnUnearned(authorities certs.Authorities) {
	for _, a := range i.profile.Unearned(authorities, i.leaves, i.Now) {
		i.report.Warn(report.ObjectOf(i.model.State.Authority), "spec.authorities", certs.UnearnedText, a.Certificate.Subject.CommonName, a.TrustedUntil.UTC().Format(time.RFC3339),
			authorities.In(v1alpha1.SlotActive).ActiveSince.UTC().Format(time.RFC3339))
	}
}

// warnExpired says that a bundle which this render leaves as it is holds what nobody needs.
func (i *issuer) warnExpired() {
	for _, ca := range i.stored {
		if i.Now.After(ca.NotAfter) {
			i.report.Warn(report.ObjectOf(i.model.State.Bundles[0]), "data", "holds %q, which expired at %s: nothing that it signed is valid; run `meshless issue` and commit the result",
				ca.Subject.CommonName, ca.NotAfter.UTC().Format(time.RFC3339))
		}
	}
}

// extend extends the trust in retired authorities for leaves that the state holds, and says so.
func (i *issuer) extend(authorities certs.Authorities) certs.Authorities {
	extended := authorities.Extend(i.leaves)
	for n, a := range extended {
		if a != authorities[n] {
			i.report.Info(i.authority(), "spec.authorities", "authority %q is trusted until %s, for a certificate that it signed: its date was too early, as after a merge", a.Certificate.Subject.CommonName,
				a.TrustedUntil.UTC().Format(time.RFC3339))
		}
	}
	return extended
}

// warnCutShort says that the config asks for longer leaves than the Active can sign: most often the validity was raised
// after it was made.
func (i *issuer) warnCutShort(authorities certs.Authorities) {
	active := authorities.In(v1alpha1.SlotActive)
	if !i.profile.CutsShort(active, i.Now) || !active.Replaced.IsZero() {
		return
	}
	i.report.Warn(i.report.Config(), "spec.certificates.validity", "%s is more than the Active authority has left: it ends at %s, and every certificate that it signs ends with it. The next authority is made "+
		"for the new validity; `meshless issue --replace-ca` makes it at once", i.profile.Validity, active.Certificate.NotAfter.UTC().Format(time.RFC3339))
}

// warnNext says, where an identity is at hand, that it will not do when Next signs: the recipients of the CA changed in
// between.
func (i *issuer) warnNext(object report.Object, authorities certs.Authorities, identities []age.Identity) {
	if next := authorities.In(v1alpha1.SlotNext); next != nil && next.Key == nil && !seal.Opens(next.SealedKey, identities) {
		i.report.Warn(object, "spec.authorities", "the identity that was given opens the key of the Active authority and not that of the Next, which signs later on. Give both (an identity file takes several "+
			"lines), or `meshless issue` will ask for the other one then")
	}
}
