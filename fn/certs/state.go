package certs

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/svid"
)

// State is the list, with the keys that are revoked, in the form in which it is committed.
func (l Authorities) State(td spiffeid.TrustDomain, revoked Revocations) v1alpha1.CertificateAuthoritySpec {
	spec := v1alpha1.CertificateAuthoritySpec{TrustDomain: td.Name(), Revoked: revoked}
	for _, a := range l {
		spec.Authorities = append(spec.Authorities, v1alpha1.Authority{
			Slot: a.Slot, ActiveSince: stamp(a.ActiveSince), TrustedUntil: stamp(a.TrustedUntil), Replaced: stamp(a.Replaced), Recipients: a.Recipients,
			Certificate: string(svid.EncodeCertificates(a.Certificate)), SealedKey: a.SealedKey,
		})
	}
	return spec
}

// Describes tells whether the state object says the same as the list, so that it need not be written.
func (l Authorities) Describes(state *v1alpha1.CertificateAuthority, revoked Revocations) bool {
	td, err := spiffeid.TrustDomainFromString(state.Spec.TrustDomain)
	if err != nil {
		return false
	}
	have, err1 := json.Marshal(state.Spec)
	want, err2 := json.Marshal(l.State(td, revoked))
	return err1 == nil && err2 == nil && bytes.Equal(have, want)
}

func stamp(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t.UTC().Truncate(time.Second)}
}

// timeOf reads what stamp wrote.
func timeOf(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}
