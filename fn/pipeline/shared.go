package pipeline

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/svid"
)

// sealedToOthers refuses to seal a new key of a CertificateAuthority that packages share to recipients of this package
// alone: whoever writes one package's config could open the CA of all.
func (c *certifier) sealedToOthers(authorities certs.Authorities) bool {
	if !c.options.SharedCA || c.options.ReplaceCA {
		return false
	}
	for _, a := range authorities {
		if a.SealedKey != "" && a.Recipients != "" && a.Replaced.IsZero() && a.Recipients != c.sealing.ca.Digest() {
			c.report.Error(report.Object{}, "spec.certificates.ca.recipients", "are others than those to whom the shared CertificateAuthority is sealed, and a new authority is due: this package alone would decide who "+
				"opens the CA of all. Give all packages the same; if they are to change, `meshless issue --ca FILE --replace-ca` seals a new authority to those of the package that it is run on")
			return true
		}
	}
	return false
}

// minHeld is how long a leaf must still live to wait for a bundle that has to become known first.
const minHeld = 48 * time.Hour

// refuseWishes refuses what this render is asked for and cannot do. That a key is revoked is nothing to believe by
// mistake.
func (c *certifier) refuseWishes(mayIssue bool) {
	if len(c.options.Revoke) == 0 && len(c.options.Renew) == 0 && !c.options.ReplaceCA {
		return
	}
	switch {
	case len(c.model.Workloads) == 0:
		c.report.Error(report.Object{}, "", "nothing can be revoked, renewed or replaced: the input holds no workload that is in the mesh. Is this the right folder?")
	case !mayIssue:
		c.report.Error(report.Object{}, "spec.issuance", "is %s, so nothing can be revoked, renewed or replaced here; run the command with a config that issues", v1alpha1.IssuanceNever)
	}
}

// replaceAll begins to replace the authorities. Those that only the bundles know come from another state, as after a
// merge: they are trusted until everything is replaced.
func (c *certifier) replaceAll(authorities certs.Authorities, stored []*x509.Certificate) certs.Authorities {
	unknown := authorities.Unknown(stored, c.options.Now)
	for _, u := range unknown {
		c.report.Info(report.Object{}, "", "authority %q, which the bundles trust and the CertificateAuthority does not know, is trusted until all are replaced", u.Subject.CommonName)
	}
	if len(unknown) > 0 && authorities.Replacing() {
		return authorities.Import(unknown, c.options.Now)
	}
	replaced, err := authorities.Trusted(c.options.Now).Replace(c.options.Now)
	if err != nil {
		c.report.Error(report.ObjectOf(c.model.State.Authority), "spec.authorities", "%v", err)
		return nil
	}
	return replaced.Import(unknown, c.options.Now)
}

// keepRevoked is how long the CertificateAuthority remembers a key after it is revoked no more: packages that share one
// still list it in bundles until they are rendered again, and without the memory it would look as if the
// CertificateAuthority had lost it.
func (c *certifier) keepRevoked() time.Duration {
	if c.options.SharedCA {
		return c.policy.SigningPeriod
	}
	return 0
}

// holdBack keeps the leaves that peers accept where the bundles of this package have yet to learn the authority that
// signs: a package that shares its CertificateAuthority, and was not rendered since that authority was made. A render a
// day later issues them.
func (c *certifier) holdBack(requests map[*manifest.Workload]certs.Request, active *certs.Authority) {
	if !c.options.SharedCA || c.trusted == nil || active == nil || slices.ContainsFunc(c.trusted, active.Certificate.Equal) {
		return
	}
	for _, w := range c.model.Workloads {
		if reason := c.reasons[w]; !reason.None() && c.accepted(requests[w].Stored) {
			delete(c.reasons, w)
			c.report.Warn(w.Object, "", "the certificate is kept for now, although %s: the bundles of this package learn only now of the authority that would sign. Sync this, and issue again a day later. "+
				"A package that shares its CA is issued at least once in each spec.certificates.ca.signingPeriod", reason.Text)
		}
	}
}

// accepted tells whether peers that know the bundle accept a leaf today and tomorrow.
func (c *certifier) accepted(stored *certs.Stored) bool {
	if stored == nil || c.bundle == nil {
		return false
	}
	leaves, err := svid.ParseCertificates([]byte(stored.LeafPEM))
	if err != nil || stored.KeyFault != "" || stored.KeyDigest != svid.KeyDigest(leaves[0]) {
		return false
	}
	_, now := c.bundle.VerifyLeaf(leaves[0], c.options.Now)
	_, later := c.bundle.VerifyLeaf(leaves[0], c.options.Now.Add(minHeld))
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
