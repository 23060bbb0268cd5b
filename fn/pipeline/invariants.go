package pipeline

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"filippo.io/age"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
)

// The invariants of the state that no single room sees: they hold on every render, also when nothing is due and when
// nothing may be issued, so that what was broken by a hand, a merge or a revert is said long before somebody needs it.

// checkAuthorities judges what package certs does not know: the time, and age files. A sealed key that is damaged would
// else be noticed when it is needed, which for Next is months later.
func (c *certifier) checkAuthorities(object report.Object, authorities certs.Authorities) {
	if err := authorities.CheckTimes(c.options.Now); err != nil {
		c.report.Error(object, "", "%v", err)
	}
	for i, a := range authorities {
		if a.SealedKey == "" {
			continue
		}
		if _, err := seal.CountRecipients(a.SealedKey); err != nil {
			c.report.Error(object, fmt.Sprintf("spec.authorities[%d].sealedKey", i), "%v; restore this object from Git", err)
		}
	}
}

// refuseUnpublished refuses an Active that no bundle knows: peers would refuse every leaf that it signs, and one that
// somebody has planted would sign the mesh. Packages that share their CertificateAuthority may learn of it late; they
// wait (holdBack).
func (c *certifier) refuseUnpublished(stored []*x509.Certificate, authorities certs.Authorities) {
	if stored == nil || c.options.SharedCA || c.report.Failed() {
		return
	}
	for _, a := range authorities.Trusted(c.options.Now) {
		if a.Slot == v1alpha1.SlotNext || slices.ContainsFunc(stored, a.Certificate.Equal) || c.options.Now.After(a.Certificate.NotAfter) {
			continue
		}
		why := "so no pod would accept what it signs"
		if a.Slot == v1alpha1.SlotRetired {
			// it was Active once, so somebody has planted it, or dropped it from the bundles
			why = "and would be trusted anew"
		}
		c.report.Error(report.ObjectOf(c.model.State.Authority), "spec.authorities", "its %s, %q, is in no bundle, %s: object and bundles are of different states, as after "+
			"a merge, a revert or a copy from elsewhere. Restore both from one commit", a.Slot, a.Certificate.Subject.CommonName, why)
		return
	}
}

// warnExpired says that a bundle which this render leaves as it is holds what nobody needs.
func (c *certifier) warnExpired(stored []*x509.Certificate) {
	for _, ca := range stored {
		if c.options.Now.After(ca.NotAfter) {
			c.report.Warn(report.ObjectOf(c.model.State.Bundles[0]), "data", "holds %q, which expired at %s: nothing that it signed is valid; run `meshless issue` and commit the result",
				ca.Subject.CommonName, ca.NotAfter.UTC().Format(time.RFC3339))
		}
	}
}

// keep prolongs the trust in retired authorities for leaves that the state holds, and says so.
func (c *certifier) keep(authorities certs.Authorities) certs.Authorities {
	kept := authorities.Extend(c.leaves)
	for i, a := range kept {
		if a != authorities[i] {
			c.report.Info(report.Object{}, "", "authority %q is trusted until %s, for a certificate that it signed: its date was too early, as after a merge", a.Certificate.Subject.CommonName,
				a.TrustedUntil.UTC().Format(time.RFC3339))
		}
	}
	return kept
}

// warnCutShort says that the config asks for longer leaves than the Active can sign: most often the validity was raised
// after it was made.
func (c *certifier) warnCutShort(authorities certs.Authorities) {
	active := authorities.In(v1alpha1.SlotActive)
	if !c.policy.CutsShort(active, c.options.Now) || !active.Replaced.IsZero() {
		return
	}
	c.report.Warn(report.Object{}, "spec.certificates.validity", "%s is more than the Active authority has left: it ends at %s, and every certificate that it signs ends with it. The next authority is made "+
		"for the new validity; `meshless issue --replace-ca` makes it at once", c.policy.Validity, active.Certificate.NotAfter.UTC().Format(time.RFC3339))
}

// warnNext says, where an identity is at hand, that it will not do when Next signs: the recipients of the CA changed in
// between.
func (c *certifier) warnNext(object report.Object, authorities certs.Authorities, identities []age.Identity) {
	if next := authorities.In(v1alpha1.SlotNext); next != nil && next.Key == nil && !seal.Opens(next.SealedKey, identities) {
		c.report.Warn(object, "spec.authorities", "the identity that was given opens the key of the Active authority and not that of the Next, which signs later on. Give both (an identity file takes several "+
			"lines), or `meshless issue` will ask for the other one then")
	}
}
