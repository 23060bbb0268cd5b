package render

import (
	"crypto"
	"crypto/x509"
	"maps"
	"slices"
	"time"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/model"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/contract"
	"github.com/meshless-dev/meshless/internal/svid"
)

// issued is what the certificates of a render are: everything that the state shall hold afterwards.
type issued struct {
	authorities certs.Authorities // nil when the CA object is not in the input
	bundle      []*x509.Certificate
	leaves      map[*model.Workload]*sealedLeaf // only those that are new
	revocations certs.Revocations               // nil when the CA object is not in the input
	revokedKeys []string                        // digests
}

// sealedLeaf is a new leaf whose key is sealed already; the plain key does not leave certify.
type sealedLeaf struct {
	certificate *x509.Certificate
	key         sealedKey
	recipients  string
}

// certifier carries what the steps of certify share.
type certifier struct {
	model   *model.Model
	sealing *sealing
	policy  certs.Policy
	options Options
	report  *report.Report
	bundle  *svid.Bundle
	trusted []*x509.Certificate // what the bundles of the state hold
	reasons map[*model.Workload]certs.Reason
	renew   map[*model.Workload]bool
	// announce says what was revoked, once nothing can fail any more.
	announce func()

	additional []*x509.Certificate // authorities that the config adds
}

// certify plans, issues and seals. What is not due keeps its bytes. Without permission to issue, or without a key that would be needed, it
// reports and issues nothing.
func certify(m *model.Model, s *sealing, o Options, r *report.Report) *issued {
	if m.Spec.UsesCertManager() {
		return delegate(o, r)
	}
	c := &certifier{model: m, sealing: s, options: o, report: r, reasons: map[*model.Workload]certs.Reason{}, additional: m.Spec.AdditionalAuthorities(), policy: certs.Policy{
		TrustDomain: m.TrustDomain, Algorithm: m.Spec.Certificates.KeyAlgorithm, Validity: m.Spec.Certificates.Validity.Duration,
		RenewBefore: m.Spec.Certificates.RenewBefore.Duration, SigningPeriod: m.Spec.Certificates.CA.SigningPeriod.Duration,
	}}
	c.policy.Shared = o.SharedCA
	mayIssue := o.WrittenBack && m.Spec.Issuance == v1alpha1.IssuanceAuto
	if c.refuseWishes(mayIssue); r.Failed() {
		return nil
	}
	if len(m.Workloads) == 0 {
		return c.stateOnly()
	}
	authorities, bundle := c.trust(mayIssue)
	if c.checkAdditional(bundle, mayIssue); r.Failed() {
		return nil
	}
	if bundle != nil {
		bundle = slices.Concat(bundle, c.additional)
	}
	out := &issued{authorities: authorities, bundle: bundle, leaves: map[*model.Workload]*sealedLeaf{}}
	out.revocations, out.revokedKeys = c.revoked(bundle, mayIssue)
	c.renew = c.named(o.Renew, "--renew")
	c.refuseOwn()
	requests := c.judge(out, authorities)
	if r.Failed() {
		return nil
	}
	if !mayIssue {
		c.refuse(bundle == nil)
		return out
	}
	c.holdBack(requests, authorities.In(v1alpha1.SlotActive))
	if len(c.reasons) > 0 && c.unlock(authorities) {
		for _, w := range m.Workloads {
			if reason := c.reasons[w]; !reason.None() {
				o.progress("certifying", len(out.leaves), len(c.reasons))
				out.leaves[w] = c.issue(w, requests[w], authorities.In(v1alpha1.SlotActive), reason)
			}
		}
	}
	c.sealAuthorities(authorities)
	c.announce()
	return out
}

// stateOnly keeps the authorities of a render whose input has no workload in the mesh.
func (c *certifier) stateOnly() *issued {
	if c.model.State.Authority == nil {
		return &issued{}
	}
	authorities := c.authorities()
	out := &issued{authorities: authorities, bundle: authorities.Certificates()}
	out.revocations, out.revokedKeys = c.revoked(out.bundle, false)
	return out
}

// trust determines the authorities, rolled where that is allowed, and the bundle. In the output of `kustomize build` the CA object is absent, and
// the bundle is what the state says.
func (c *certifier) trust(mayIssue bool) (certs.Authorities, []*x509.Certificate) {
	stored := c.storedBundle(mayIssue)
	if c.trusted = stored; c.report.Failed() {
		return nil, nil
	}
	if c.model.State.Authority == nil {
		switch fresh := len(c.model.State.Leaves) == 0 && stored == nil; {
		case !mayIssue:
			c.warnExpired(stored)
			return nil, stored
		case fresh:
			return c.roll(nil)
		case c.options.ReplaceCA && stored != nil:
			return c.roll(certs.Lost(stored, c.options.Now))
		}
		c.report.Error(report.Object{}, "", "the state in the input has no CertificateAuthority: either the function sees a part of the package only (run it on the whole, without selectors), or the "+
			"object is lost. Restore it from Git (mtls/ca.yaml). If packages share it, name its file: `meshless issue --ca FILE`. If it is gone for good, run `meshless issue --replace-ca`, which needs two more runs, "+
			"two and four days later, and no outage")
		return nil, nil
	}
	authorities := c.authorities()
	if c.report.Failed() {
		return nil, nil
	}
	replaced := authorities
	if mayIssue && c.options.ReplaceCA {
		replaced = c.replaceAll(authorities, stored)
	} else {
		c.refuseForeign(stored, authorities)
		c.refuseUnpublished(stored, authorities)
	}
	if c.report.Failed() {
		return nil, nil
	}
	if mayIssue {
		rolled, trusted := c.roll(replaced)
		if c.options.SharedCA {
			rolled = rolled.Bury(authorities, c.options.Now)
		}
		return rolled, trusted
	}
	if stored != nil && !sameCertificates(stored, authorities.Certificates()) {
		c.report.Error(report.ObjectOf(c.model.State.Bundles[0]), "data", "does not hold the certificates of the CertificateAuthority; run `meshless issue` and commit the result")
	}
	return authorities, stored
}

// refuseForeign refuses a CertificateAuthority that does not know what the bundles trust: it is not the one that made them, and with it every pod's leaf and trust
// would be replaced at once.
func (c *certifier) refuseForeign(stored []*x509.Certificate, authorities certs.Authorities) {
	for _, trusted := range stored {
		known := slices.ContainsFunc(authorities.Certificates(), trusted.Equal)
		if !known && trusted.NotAfter.After(c.options.Now) && !c.report.Failed() {
			c.report.Error(report.ObjectOf(c.model.State.Authority), "spec.authorities", "does not hold %q, which the bundles trust: object and bundles are of different states, as after "+
				"a merge, a revert or a copy from elsewhere. Restore both from one commit; if none has both, `meshless issue --replace-ca` trusts all of them until it has replaced them, "+
				"with two more runs, two and four days later, and no outage", trusted.Subject.CommonName)
		}
	}
}

func (c *certifier) authorities() certs.Authorities {
	object := report.ObjectOf(c.model.State.Authority)
	state, err := v1alpha1.ParseCertificateAuthority(c.model.State.Authority)
	if err != nil {
		c.report.Error(object, "", "%v", err)
		return nil
	}
	authorities, err := certs.ParseAuthorities(state, c.model.TrustDomain)
	if err != nil {
		c.report.Error(object, "", "%v", err)
		return nil
	}
	c.checkAuthorities(object, authorities)
	if active := authorities.In(v1alpha1.SlotActive); active != nil && active.Replaced.IsZero() && active.Recipients != c.sealing.ca.Digest() {
		c.report.Warn(object, "spec.authorities", "the Active authority is sealed to other recipients than spec.certificates.ca.recipients; the config's apply to authorities that are made from now on")
	}
	return authorities
}

func (c *certifier) roll(authorities certs.Authorities) (certs.Authorities, []*x509.Certificate) {
	authorities = c.keep(authorities)
	rolled, err := c.policy.Roll(authorities, c.lastExpiry(), c.options.Now)
	if err != nil {
		c.report.Error(report.Object{}, "", "making an authority: %v", err)
		return nil, nil
	}
	for _, a := range rolled {
		if !slices.ContainsFunc(authorities, func(old *certs.Authority) bool { return old.Certificate == a.Certificate && old.Slot == a.Slot }) {
			c.report.Info(report.Object{}, "", "authority %q is %s now", a.Certificate.Subject.CommonName, a.Slot)
		}
	}
	for _, a := range authorities.Trusted(c.options.Now) {
		if c.options.SharedCA && c.trusted != nil && !slices.ContainsFunc(c.trusted, a.Certificate.Equal) && slices.ContainsFunc(rolled.Certificates(), a.Certificate.Equal) {
			c.report.Info(report.Object{}, "", "authority %q of the shared CertificateAuthority, which is %s there, is trusted by this package from now on", a.Certificate.Subject.CommonName, a.Slot)
		}
	}
	for _, old := range authorities {
		if !slices.ContainsFunc(rolled.Certificates(), old.Certificate.Equal) && (!c.options.SharedCA || slices.ContainsFunc(c.trusted, old.Certificate.Equal)) {
			c.report.Info(report.Object{}, "", "authority %q is trusted no more: nothing that it signed is valid", old.Certificate.Subject.CommonName)
		}
	}
	if what, at := rolled.NextStep(); what != "" {
		c.report.Info(report.Object{}, "", "the CA is being replaced: run `meshless issue` again after %s, when %s", at.UTC().Format(time.RFC3339), what)
	}
	c.warnCutShort(rolled)
	return rolled, rolled.Certificates()
}

// storedBundle reads the bundles of the state; nil when there is none. They must agree, except where this render writes them anew: then it is all that any of them holds.
func (c *certifier) storedBundle(mayIssue bool) []*x509.Certificate {
	var stored []*x509.Certificate
	for i, item := range c.model.State.Bundles {
		certificates, err := svid.ParseCertificates([]byte(item.GetDataMap()[contract.BundleFile]))
		if err == nil {
			_, err = svid.NewBundle(c.model.TrustDomain, certificates, nil)
		}
		certificates, _ = splitBundle(item, certificates)
		if err == nil && (i == 0 || !sameCertificates(stored, certificates)) {
			err = certs.CheckBundle(certificates, c.model.TrustDomain)
		}
		switch {
		case err != nil:
			c.report.Error(report.ObjectOf(item), "data["+contract.BundleFile+"]", "%v; restore it from Git", err)
		case i > 0 && !sameCertificates(stored, certificates) && mayIssue:
			stored = unionOf(stored, certificates)
		case i > 0 && !sameCertificates(stored, certificates):
			c.report.Error(report.ObjectOf(item), "data["+contract.BundleFile+"]", "holds other authorities than the bundle of namespace %q; run `meshless issue` on the whole package",
				c.model.State.Bundles[0].GetNamespace())
		default:
			stored = certificates
		}
	}
	return stored
}

// judge asks of each workload whether its leaf is to be replaced.
func (c *certifier) judge(trust *issued, authorities certs.Authorities) map[*model.Workload]certs.Request {
	requests := map[*model.Workload]certs.Request{}
	if trust.bundle != nil {
		var err error
		if c.bundle, err = svid.NewBundle(c.model.TrustDomain, trust.bundle, trust.revokedKeys); err != nil {
			c.report.Error(report.Object{}, "", "%v", err)
			return nil
		}
	}
	for _, w := range c.model.Issued() {
		recipients := c.sealing.of(w.Namespace)
		request := certs.Request{ID: w.ID, DNSNames: w.DNSNames(), Recipients: recipients.Digest(), Replaced: authorities.Replaced(), Renew: c.renew[w]}
		if active := authorities.In(v1alpha1.SlotActive); active != nil {
			request.Active = active.Certificate
		}
		if secret := c.model.State.Leaves[w.ID.String()]; secret != nil {
			c.refuseDuplicates(w, secret)
			request.Stored = c.stored(secret, recipients)
		}
		requests[w] = request
		reason := certs.Reason{Text: "it has none yet"}
		if c.bundle != nil {
			reason = c.policy.Judge(request, c.bundle, c.options.Now)
		}
		if !reason.None() {
			c.reasons[w] = reason
		}
	}
	return requests
}

func (c *certifier) refuseDuplicates(w *model.Workload, secret *yaml.RNode) {
	for _, other := range c.model.State.Duplicate[w.ID.String()] {
		c.report.Error(report.ObjectOf(other), "metadata.annotations["+contract.IdentityAnnotation+"]",
			"%s is also the identity of secret %s%s; delete one of them%s", w.ID, secret.GetName(), model.InFile(secret), model.InFile(other))
	}
}

// refuse reports what a render that may not issue lacks: an error where a leaf would not work or is not what the manifests ask for, a warning where it is merely due.
func (c *certifier) refuse(nothing bool) {
	why := "its result is not written back"
	if c.options.WrittenBack {
		why = "spec.issuance is Never"
	}
	way := "this render may not issue, since " + why + ". Run `meshless issue DIR` on the kustomization or package, commit what it writes, and render again"
	if nothing && (c.model.State.Authority != nil || len(c.model.State.Leaves) > 0) {
		c.report.Error(report.Object{}, "", "the bundle (configmap %s) is missing beside the rest of the state; restore the state from Git as a whole", contract.BundleName)
		return
	}
	if nothing {
		c.report.Error(report.Object{}, "", "there are no certificates yet (no state with the annotation %s in the input), and %s. A kustomization lists the written folder `mtls` in its resources",
			contract.IdentityAnnotation, way)
		return
	}
	way += c.hintEarly()
	for _, w := range c.model.Workloads {
		switch reason := c.reasons[w]; {
		case reason.None():
		case reason.Due:
			c.report.Warn(w.Object, "", "the certificate is due for renewal: %s. Run `meshless issue DIR` and commit what it writes", reason.Text)
		default:
			c.report.Error(w.Object, "", "the certificate must be issued anew: %s; %s", reason.Text, way)
		}
	}
}

// hintEarly explains certificates of workloads that are not there: a function in a base or a Component of kustomize sees names before prefix and namespace.
func (c *certifier) hintEarly() string {
	known := map[string]bool{}
	for _, w := range c.model.Workloads {
		known[w.ID.String()] = true
	}
	for _, id := range slices.Sorted(maps.Keys(c.model.State.Leaves)) {
		if !known[id] {
			return ". The input holds a certificate of " + id + ", which is no workload of it: in a base or a Component the function runs before prefix and namespace are set; " +
				"it belongs into the transformers of the outermost overlay"
		}
	}
	return ""
}

// unlock opens the key of the Active authority, and tells whether leaves can be issued. Without an identity, leaves that are merely due are left for a render that has one.
func (c *certifier) unlock(authorities certs.Authorities) bool {
	active := authorities.In(v1alpha1.SlotActive)
	if active == nil {
		c.waitForAuthority(authorities)
		return false
	}
	if active.Key != nil {
		return true
	}
	object := report.Object{APIVersion: contract.APIVersion, Kind: v1alpha1.KindCertificateAuthority, Name: c.model.State.Authority.GetName()}
	identities, err := c.options.CAIdentity()
	if err != nil {
		c.report.Error(object, "", "%v", err)
		return false
	}
	if len(identities) == 0 {
		c.askForIdentity(object)
		return false
	}
	key, err := seal.Open(active.SealedKey, identities)
	if err == nil {
		err = active.Unlock(key)
		clear(key)
	}
	if err == nil {
		c.warnNext(object, authorities, identities)
	}
	if err != nil && !active.Replaced.IsZero() { // its identity may be what is lost
		c.waitForAuthority(authorities)
		return false
	}
	if err != nil {
		c.report.Error(object, "spec.authorities", "the sealed key of the Active authority %v; give the age identity whose recipient was in spec.certificates.ca.recipients "+
			"when the authority was made", err)
	}
	return err == nil
}

// waitForAuthority reports what cannot be issued yet, since the keys of the old authorities are lost or cannot be opened any more, and the new one is not known everywhere.
func (c *certifier) waitForAuthority(authorities certs.Authorities) {
	_, at := authorities.NextStep()
	way := "Leave the change out until then; a key that leaked meanwhile is given away only by a new CA (delete the folder mtls, and expect an outage until every pod has synced)"
	if active := authorities.In(v1alpha1.SlotActive); active != nil && active.SealedKey != "" {
		way = "Give the identity of the old CA beside the new one (both in MESHLESS_CA_IDENTITY, one a line), or leave the change out until then"
	}
	for _, w := range c.model.Workloads {
		switch reason := c.reasons[w]; {
		case reason.None():
		case reason.Due:
			c.report.Warn(w.Object, "", "the certificate is due for renewal: %s. It is renewed when the new authority signs, from %s on", reason.Text, at.UTC().Format(time.RFC3339))
		default:
			c.report.Error(w.Object, "", "the certificate must be issued anew: %s; but no authority signs before %s, since the CA is being replaced and every node must know the new one first. %s",
				reason.Text, at.UTC().Format(time.RFC3339), way)
		}
	}
}

func (c *certifier) askForIdentity(object report.Object) {
	for _, w := range c.model.Workloads {
		const way = "Give the CA's age identity in MESHLESS_CA_IDENTITY or MESHLESS_CA_IDENTITY_FILE (`kpt fn render` passes no environment: use `meshless issue` or `kpt fn eval`)"
		switch reason := c.reasons[w]; {
		case reason.None():
		case reason.Due:
			c.report.Warn(w.Object, "", "the certificate is due for renewal: %s. %s", reason.Text, way)
		default:
			c.report.Error(w.Object, "", "the certificate must be issued anew: %s; but the key of %s cannot be opened. %s", reason.Text, object, way)
		}
	}
}

// issue makes and seals one leaf. The key is gone when it returns.
func (c *certifier) issue(w *model.Workload, request certs.Request, active *certs.Authority, reason certs.Reason) *sealedLeaf {
	recipients := c.sealing.of(w.Namespace)
	leaf, err := c.policy.Issue(request, active, c.options.Now)
	var sealed sealedKey
	if err == nil {
		sealed, err = c.sealLeafKey(recipients, leaf.Key)
	}
	if err != nil {
		c.report.Error(w.Object, "", "issuing a certificate: %v", err)
		return nil
	}
	c.report.Info(w.Object, "", "issued a certificate, since %s", reason.Text)
	return &sealedLeaf{certificate: leaf.Certificate, key: sealed, recipients: recipients.Digest()}
}

// sealAuthorities seals the keys of authorities that this run made.
func (c *certifier) sealAuthorities(authorities certs.Authorities) {
	for _, a := range authorities {
		if a.Key == nil || a.SealedKey != "" {
			continue
		}
		if c.sealedToOthers(authorities) {
			return
		}
		sealed, err := sealKey(c.sealing.ca, a.Key)
		if err != nil {
			c.report.Error(report.Object{}, "", "sealing the key of an authority: %v", err)
			return
		}
		a.SealedKey, a.Recipients = sealed, c.sealing.ca.Digest()
	}
}

// lastExpiry is the latest expiry of the leaves in the state; zero when there is none.
func (c *certifier) lastExpiry() time.Time {
	var last time.Time
	for _, secret := range c.model.State.Leaves {
		if leaf := leafOf(secret); leaf != nil && leaf.NotAfter.After(last) {
			last = leaf.NotAfter
		}
	}
	return last
}

// latestExpiry is until when any leaf of these authorities can be valid, since none outlives its authority.
func latestExpiry(bundle []*x509.Certificate) (last time.Time) {
	for _, ca := range bundle {
		if ca.NotAfter.After(last) {
			last = ca.NotAfter
		}
	}
	return last
}

func sealKey(recipients seal.Recipients, key crypto.Signer) (string, error) {
	plain, err := certs.EncodeKey(key)
	if err != nil {
		return "", err
	}
	defer clear(plain)
	return recipients.Seal(plain)
}

func sameCertificates(a, b []*x509.Certificate) bool {
	return slices.EqualFunc(a, b, func(x, y *x509.Certificate) bool { return x.Equal(y) })
}
