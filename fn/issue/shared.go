package issue

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/internal/svid"
)

// sealedToOthers refuses to seal a new key of a CertificateAuthority that packages share to recipients of this package
// alone: whoever writes one package's config could open the CA of all.
func (i *issuer) sealedToOthers(authorities certs.Authorities) bool {
	if !i.SharedCA || i.Actions.ReplaceCA {
		return false
	}
	for _, a := range authorities {
		if a.SealedKey != "" && a.Recipients != "" && a.Replaced.IsZero() && a.Recipients != i.recipients.ca.Digest() {
			i.report.Error(i.report.Config(), "spec.certificates.ca.recipients", "are others than those to whom the shared CertificateAuthority is sealed, and a new authority is due: this package alone would decide who "+
				"opens the CA of all. Give all packages the same; if they are to change, `meshless issue --ca FILE --replace-ca` seals a new authority to those of the package that it is run on")
			return true
		}
	}
	return false
}

// minHeld is how long a leaf must still live to wait for a bundle that has to become known first.
const minHeld = 48 * time.Hour

// checkActions refuses what this render is asked for and cannot do. That a key is revoked is nothing to believe by
// mistake.
func (i *issuer) checkActions() {
	if a := i.Actions; len(a.Revoke) == 0 && len(a.Renew) == 0 && !a.ReplaceCA {
		return
	}
	switch {
	case len(i.model.Workloads) == 0:
		i.report.Error(i.report.Config(), "spec.workloads", "nothing can be revoked, renewed or replaced: the input holds no workload that is in the mesh. Is this the right folder?")
	case i.Mode != Issue:
		i.report.Error(i.report.Config(), "spec.issuance", "is %s, so nothing can be revoked, renewed or replaced here; run the command with a config that issues", v1alpha1.IssuanceNever)
	}
}

// replaceAll begins to replace the authorities. Those that only the bundles know come from another state, as after a
// merge: they are trusted until everything is replaced.
func (i *issuer) replaceAll(authorities certs.Authorities) certs.Authorities {
	unknown := authorities.Unknown(i.stored, i.Now)
	for _, u := range unknown {
		i.report.Info(i.authority(), "spec.authorities", "authority %q, which the bundles trust and the CertificateAuthority does not know, is trusted until all are replaced", u.Subject.CommonName)
	}
	if len(unknown) > 0 && authorities.Replacing() {
		return authorities.Import(unknown, i.Now)
	}
	replaced, err := authorities.Trusted(i.Now).Replace(i.Now)
	if err != nil {
		i.report.ErrorIn(i.model.State.Authority, "spec.authorities", "%v", err)
		return nil
	}
	return replaced.Import(unknown, i.Now)
}

// rememberRevoked is how long the CertificateAuthority remembers a key after it is revoked no more: packages that share
// one still list it in bundles until they are rendered again, and without the memory it would look as if the
// CertificateAuthority had lost it.
func (i *issuer) rememberRevoked() time.Duration {
	if i.SharedCA {
		return i.profile.SigningPeriod
	}
	return 0
}

// deferUnpublished takes the leaves that peers accept out of the plan, where the bundles of this package have yet to
// learn the authority that signs: a package that shares its CertificateAuthority, and was not rendered since that
// authority was made. A render a day later issues them.
func (i *issuer) deferUnpublished(p *plan) {
	active := p.Authorities.ActiveCertificate()
	if !i.SharedCA || i.stored == nil || active == nil || slices.ContainsFunc(i.stored, active.Equal) {
		return
	}
	p.due = slices.DeleteFunc(p.due, func(d due) bool {
		accepted := i.accepted(p, d.request.Stored)
		if accepted {
			i.report.Warn(d.workload.Object, d.workload.Part(), "the certificate is kept for now, although %s: the bundles of this package learn only now of the authority that would sign. Sync this, and issue again a day later. "+
				"A package that shares its CA is issued at least once in each spec.certificates.ca.signingPeriod", d.reason.Text)
		}
		return accepted
	})
}

// accepted tells whether peers that know the bundle accept a leaf today and tomorrow.
func (i *issuer) accepted(p *plan, stored *certs.Stored) bool {
	if stored == nil || p.verifier == nil {
		return false
	}
	leaves, err := svid.ParseCertificates([]byte(stored.LeafPEM))
	if err != nil || stored.KeyFault != "" || stored.KeyDigest != svid.KeyDigest(leaves[0]) {
		return false
	}
	_, now := p.verifier.VerifyLeaf(leaves[0], i.Now)
	_, later := p.verifier.VerifyLeaf(leaves[0], i.Now.Add(minHeld))
	return now == nil && later == nil
}

// unionOf are the certificates of both lists, in the order in which they stand.
func unionOf(a, b []*x509.Certificate) []*x509.Certificate {
	out := slices.Clone(a)
	for _, c := range b {
		if !slices.ContainsFunc(out, c.Equal) {
			out = append(out, c)
		}
	}
	return out
}
