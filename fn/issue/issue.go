// Package issue makes the certificates of a render in four steps:
//
//   - Plan: determine the trusted authorities, the revoked keys and the leaves that are due, by public material alone.
//   - Unlock: open the key of the Active authority, only when a leaf is due.
//   - Issue: make the leaves.
//   - Seal: seal their keys, and those of new authorities.
//
// What is not due keeps its bytes. Plain keys never leave the package.
package issue

import (
	"crypto"
	"crypto/x509"
	"time"

	"filippo.io/age"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/svid"
)

// Mode tells whether a render may issue.
type Mode int

// The modes. An engine that renders at sync time must not issue: it would mint new certificates at every sync.
const (
	NotStored Mode = iota // the result is not stored where the next render sees it
	Forbidden             // the config says issuance: Never
	Elsewhere             // the CertificateAuthority is that of several packages, and not in the input
	Issue
)

// Actions are what a person requests beyond what is due.
type Actions struct {
	// Revoke names keys that peers refuse from now on: workloads ("kind/name" or "namespace/kind/name"), whose
	// present key is meant, or digests of public keys. Renew names workloads that get a new key and leaf.
	Revoke, Renew []string
	ReplaceCA     bool // begin to replace the authorities
}

// Options are what issuing depends on beside the manifests.
type Options struct {
	Now     time.Time
	Mode    Mode
	Actions Actions
	// SharedCA says that the CertificateAuthority among the items is that of several packages, which are rendered one
	// by one.
	SharedCA bool
	// CAIdentity returns the age identities that open CA keys, none when there are none. It is called only when a CA
	// key is needed.
	CAIdentity func() ([]age.Identity, error)
	// Progress is called before each leaf that is made.
	Progress func(done, total int)
}

// Result is everything that the state shall hold after a render. It is public.
type Result struct {
	Authorities certs.Authorities // nil when the CertificateAuthority is not in the input
	Bundle      []*x509.Certificate
	Leaves      map[*manifest.Workload]*Leaf // only those that are new
	Revocations certs.Revocations            // nil when the CertificateAuthority is not in the input
	RevokedKeys []string                     // digests
}

// Leaf is a new leaf whose key is sealed already.
type Leaf struct {
	Certificate *x509.Certificate
	Key         SealedKey
	Record      certs.Record
}

// Run plans, issues and seals. Without permission to issue, or without a key that would be needed, it reports what is
// missing and issues nothing. After an error in the report the result is not to be used.
func Run(m *manifest.Model, recipients *Recipients, o Options, r *report.Report) *Result {
	warnSwitch(m, o.Now, r)
	if m.Spec.UsesCertManager() {
		refuseManaged(o, r)
		return &Result{}
	}
	i := &issuer{Options: o, model: m, recipients: recipients, report: r, leaves: leavesOf(m.State), profile: certs.ProfileOf(m.Spec.Certificates, m.TrustDomain)}
	i.profile.Shared = o.SharedCA
	if i.checkActions(); r.Failed() {
		return nil
	}
	if len(m.Workloads) == 0 {
		return i.keepState()
	}
	p := i.plan()
	switch {
	case r.Failed():
		return nil
	case o.Mode != Issue:
		i.refuse(p)
		return &p.Result
	}
	i.deferUnpublished(p)
	if len(p.due) > 0 && i.unlock(p) {
		i.tellMoved(p.due)
		for n, d := range p.due {
			o.Progress(n, len(p.due))
			p.Leaves[d.workload] = i.issue(d, p.Authorities.In(v1alpha1.SlotActive))
		}
	}
	i.sealAuthorities(p.Authorities)
	i.reportRevoked(p.revoked)
	return &p.Result
}

// issuer is what the steps share. Nothing changes it after the state was read.
type issuer struct {
	Options
	model      *manifest.Model
	recipients *Recipients
	profile    certs.Profile
	report     *report.Report
	stored     []*x509.Certificate // what the bundles of the state hold; nil when there is none
	leaves     []*x509.Certificate // those of the state that can be read
}

// plan is what is to be done.
type plan struct {
	Result
	revoked  revocation
	verifier *svid.Bundle // nil when there is no bundle yet
	due      []due        // in the order of the workloads
}

// due is a leaf that is to be issued.
type due struct {
	workload *manifest.Workload
	request  certs.Request
	reason   certs.Reason
}

// keepState keeps the authorities of a render whose input has no workload in the mesh.
func (i *issuer) keepState() *Result {
	if i.model.State.Authority == nil {
		return &Result{}
	}
	authorities := i.authorities()
	bundle := authorities.Certificates()
	revoked, _ := i.storedRevocations(bundle) // too many are reported
	return &Result{Authorities: authorities, Bundle: bundle, Revocations: revoked.kept, RevokedKeys: revoked.digests}
}

// issue makes and seals one leaf. The key is gone when it returns.
func (i *issuer) issue(d due, active *certs.Authority) *Leaf {
	recipients := i.recipients.of(d.workload.Namespace)
	leaf, err := i.profile.Issue(d.request, active, i.Now)
	var sealed SealedKey
	if err == nil {
		sealed, err = i.sealLeafKey(recipients, leaf.Key)
	}
	if err != nil {
		i.report.Error(d.workload.Object, d.workload.Part(), "issuing a certificate: %v", err)
		return nil
	}
	i.report.Info(d.workload.Object, d.workload.Part(), "issued a certificate, since %s", d.reason.Text)
	return &Leaf{Certificate: leaf.Certificate, Key: sealed, Record: i.profile.Record(leaf.Certificate, recipients.Digest())}
}

// sealAuthorities seals the keys of authorities that this run made.
func (i *issuer) sealAuthorities(authorities certs.Authorities) {
	for _, a := range authorities {
		if a.Key == nil || a.SealedKey != "" {
			continue
		}
		if i.sealedToOthers(authorities) {
			return
		}
		sealed, err := sealKey(i.recipients.ca, a.Key)
		if err != nil {
			i.report.Error(i.authority(), "spec.authorities", "sealing the key of an authority: %v", err)
			return
		}
		a.SealedKey, a.Recipients = sealed, i.recipients.ca.Digest()
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
