package issue

import (
	"fmt"
	"maps"
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// plan reads the state and determines what is to be done. After an error it is incomplete.
func (i *issuer) plan() *plan {
	p := &plan{}
	p.Leaves = map[*manifest.Workload]*Leaf{}
	if i.stored = i.storedBundle(); i.report.Failed() {
		return p
	}
	p.Authorities, p.Bundle = i.trust()
	additional := i.model.Spec.AdditionalAuthorities()
	if i.checkAdditional(additional, p.Bundle); i.report.Failed() {
		return p
	}
	if p.Bundle != nil {
		p.Bundle = slices.Concat(p.Bundle, additional)
	}
	p.revoked = i.revocations(p.Bundle)
	p.Revocations, p.RevokedKeys = p.revoked.kept, p.revoked.digests
	renew := i.workloadsOf(i.Actions.Renew, "--renew")
	i.refuseOwn(renew)
	i.evaluate(p, renew)
	return p
}

// evaluate asks of each workload whether its leaf is to be replaced.
func (i *issuer) evaluate(p *plan, renew map[*manifest.Workload]bool) {
	if p.Bundle != nil {
		var err error
		if p.verifier, err = svid.NewBundle(i.model.TrustDomain, p.Bundle, p.RevokedKeys); err != nil {
			i.report.Error(i.authority(), "spec.authorities", "%v", err)
			return
		}
	}
	for _, w := range i.model.Issued() {
		request := i.request(w, p.Authorities)
		request.Renew = renew[w]
		reason := certs.Reason{Text: "it has none yet"}
		if p.verifier != nil {
			reason = i.profile.Evaluate(request, p.verifier, i.Now)
		}
		if !reason.None() {
			p.due = append(p.due, due{w, request, reason})
		}
	}
}

// request is what a workload needs, and what it has.
func (i *issuer) request(w *manifest.Workload, authorities certs.Authorities) certs.Request {
	recipients := i.recipients.of(w.Namespace)
	request := certs.Request{ID: w.ID, DNSNames: w.DNSNames(), Recipients: recipients.Digest(), Replaced: authorities.Replaced(), Active: authorities.ActiveCertificate()}
	if secret := i.model.State.Leaves[w.ID.String()]; secret != nil {
		i.refuseDuplicates(w, secret)
		request.Stored = i.storedLeaf(secret, recipients)
	}
	return request
}

func (i *issuer) refuseDuplicates(w *manifest.Workload, secret *yaml.RNode) {
	for _, other := range i.model.State.Duplicate[w.ID.String()] {
		if report.ObjectOf(other) == report.ObjectOf(secret) {
			i.report.ErrorIn(other, "metadata.name", "stands twice in the input, as where a stream that was rendered already is rendered with --state again; leave one of them out")
			continue
		}
		i.report.ErrorIn(other, report.Annotation(api.IdentityAnnotation),
			"%s is also the identity of %s; delete one of them", w.ID, report.NameOf(secret))
	}
}

// refuse reports what a render that may not issue lacks: an error where a leaf would not work or is not what the
// manifests ask for, a warning where it is merely due.
func (i *issuer) refuse(p *plan) {
	why := "its result is not written back"
	command, on := "meshless issue DIR", "on the kustomization or package, or for a stream `meshless issue --config FILE --state DIR -`"
	switch i.Mode {
	case Forbidden:
		why = "spec.issuance is Never"
	case Elsewhere:
		why, command, on = "the CertificateAuthority, which packages share, is in none of them", "meshless issue --ca FILE DIR", "on the package"
	}
	way := "this render may not issue, since " + why + ". Run `" + command + "` " + on + ", commit what it writes, and render again"
	switch state := i.model.State; {
	case p.Bundle != nil:
		i.postpone(p.due, "Run `"+command+"` and commit what it writes", way+i.hintEarly())
	case state.Authority != nil || len(state.Leaves) > 0:
		i.report.Error(report.Object{APIVersion: "v1", Kind: "ConfigMap", Name: api.BundleName(i.model.Package)}, "", "the bundle (configmap %s) is missing beside the rest of the state; restore the state from Git as a whole", api.BundleName(i.model.Package))
	default:
		i.report.Error(i.report.Config(), "spec.issuance", "there are no certificates yet (no state with the annotation %s in the input), and %s. A kustomization lists the written folder `mtls` in its resources",
			api.IdentityAnnotation, way)
	}
}

// postpone reports leaves that this run cannot issue: a warning where one is merely due and a later run will do, an
// error where it does not work.
func (i *issuer) postpone(leaves []due, later, anew string) {
	for _, d := range leaves {
		if d.reason.Due {
			i.report.Warn(d.workload.Object, d.workload.Part(), "the certificate is due for renewal: %s. %s", d.reason.Text, later)
		} else {
			i.report.Error(d.workload.Object, d.workload.Part(), "the certificate must be issued anew: %s; %s", d.reason.Text, anew)
		}
	}
}

// hintEarly explains certificates of workloads that are not there: a function in a base or a Component of kustomize
// sees names before prefix and namespace.
func (i *issuer) hintEarly() string {
	known := map[string]bool{}
	for _, w := range i.model.Workloads {
		known[w.ID.String()] = true
	}
	for _, id := range slices.Sorted(maps.Keys(i.model.State.Leaves)) {
		if !known[id] {
			return fmt.Sprintf(". The input holds a certificate of %s, which is no workload of it: in a base or a Component the function runs before prefix and namespace are set; "+
				"it belongs into the transformers of the outermost overlay. Of a stream the namespace (--namespace) and the names are those that it was issued with", id)
		}
	}
	return ""
}
