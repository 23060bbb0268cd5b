package pipeline

import (
	"crypto"
	"crypto/x509"
	"maps"
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// issued is what the certificates of a render are: everything that the state shall hold afterwards.
type issued struct {
	authorities certs.Authorities // nil when the CA object is not in the input
	bundle      []*x509.Certificate
	leaves      map[*manifest.Workload]*sealedLeaf // only those that are new
	revocations certs.Revocations                  // nil when the CA object is not in the input
	revokedKeys []string                           // digests
}

// sealedLeaf is a new leaf whose key is sealed already; the plain key does not leave certify.
type sealedLeaf struct {
	certificate *x509.Certificate
	key         sealedKey
	record      certs.Record
}

// certifier carries what the steps of certify share.
type certifier struct {
	model   *manifest.Model
	sealing *sealing
	policy  certs.Policy
	options Options
	report  *report.Report
	bundle  *svid.Bundle
	trusted []*x509.Certificate // what the bundles of the state hold
	reasons map[*manifest.Workload]certs.Reason
	renew   map[*manifest.Workload]bool
	// leaves are the certificates of the state that can be read, parsed once.
	leaves []*x509.Certificate
	// announce says what was revoked, once nothing can fail any more.
	announce func()

	additional []*x509.Certificate // authorities that the config adds
}

// certify plans, issues and seals. What is not due keeps its bytes. Without permission to issue, or without a key that
// would be needed, it reports and issues nothing.
func certify(m *manifest.Model, s *sealing, o Options, r *report.Report) *issued {
	if m.Spec.UsesCertManager() {
		return delegate(o, r)
	}
	c := &certifier{model: m, sealing: s, options: o, report: r, reasons: map[*manifest.Workload]certs.Reason{}, additional: m.Spec.AdditionalAuthorities(),
		leaves: leavesOf(m.State), policy: certs.PolicyOf(m.Spec.Certificates, m.TrustDomain)}
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
	out := &issued{authorities: authorities, bundle: bundle, leaves: map[*manifest.Workload]*sealedLeaf{}}
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

// judge asks of each workload whether its leaf is to be replaced.
func (c *certifier) judge(trust *issued, authorities certs.Authorities) map[*manifest.Workload]certs.Request {
	requests := map[*manifest.Workload]certs.Request{}
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
			reason = c.policy.Evaluate(request, c.bundle, c.options.Now)
		}
		if !reason.None() {
			c.reasons[w] = reason
		}
	}
	return requests
}

func (c *certifier) refuseDuplicates(w *manifest.Workload, secret *yaml.RNode) {
	for _, other := range c.model.State.Duplicate[w.ID.String()] {
		c.report.Error(report.ObjectOf(other), "metadata.annotations["+api.IdentityAnnotation+"]",
			"%s is also the identity of secret %s%s; delete one of them%s", w.ID, secret.GetName(), manifest.InFile(secret), manifest.InFile(other))
	}
}

// refuse reports what a render that may not issue lacks: an error where a leaf would not work or is not what the
// manifests ask for, a warning where it is merely due.
func (c *certifier) refuse(nothing bool) {
	why := "its result is not written back"
	if c.options.WrittenBack {
		why = "spec.issuance is Never"
	}
	way := "this render may not issue, since " + why + ". Run `meshless issue DIR` on the kustomization or package, commit what it writes, and render again"
	if nothing && (c.model.State.Authority != nil || len(c.model.State.Leaves) > 0) {
		c.report.Error(report.Object{}, "", "the bundle (configmap %s) is missing beside the rest of the state; restore the state from Git as a whole", api.BundleName)
		return
	}
	if nothing {
		c.report.Error(report.Object{}, "", "there are no certificates yet (no state with the annotation %s in the input), and %s. A kustomization lists the written folder `mtls` in its resources",
			api.IdentityAnnotation, way)
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

// hintEarly explains certificates of workloads that are not there: a function in a base or a Component of kustomize
// sees names before prefix and namespace.
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

// issue makes and seals one leaf. The key is gone when it returns.
func (c *certifier) issue(w *manifest.Workload, request certs.Request, active *certs.Authority, reason certs.Reason) *sealedLeaf {
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
	return &sealedLeaf{certificate: leaf.Certificate, key: sealed, record: c.policy.Record(leaf.Certificate, recipients.Digest())}
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

func sealKey(recipients seal.Recipients, key crypto.Signer) (string, error) {
	plain, err := svid.EncodeKey(key)
	if err != nil {
		return "", err
	}
	defer clear(plain)
	return recipients.Seal(plain)
}
