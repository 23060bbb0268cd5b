package certs

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/svid"
)

const (
	// backdate is how far NotBefore lies before the issue, for clocks that are behind.
	backdate = 10 * time.Minute
)

// Profile is what the config says about certificates.
type Profile struct {
	TrustDomain   spiffeid.TrustDomain
	Algorithm     string        // one of v1alpha1.KeyAlgorithms
	Validity      time.Duration // of a leaf
	RenewBefore   time.Duration // a leaf is due when this much is left
	SigningPeriod time.Duration // of an authority

	// Shared says that other packages, whose leaves are not known here, have leaves of the same authorities.
	Shared bool
}

// ProfileOf is what a config says of certificates.
func ProfileOf(c v1alpha1.Certificates, td spiffeid.TrustDomain) Profile {
	return Profile{TrustDomain: td, Algorithm: c.KeyAlgorithm, Validity: c.Validity.Duration, RenewBefore: c.RenewBefore.Duration, SigningPeriod: c.CA.SigningPeriod.Duration}
}

// caValidity covers a period of waiting, one of signing, the life of the last leaf, and as much again for renders that
// come late.
func (p Profile) caValidity() time.Duration { return 2*p.SigningPeriod + 2*p.Validity }

// Authority is one CA of the trust domain.
type Authority struct {
	Slot         v1alpha1.Slot
	Certificate  *x509.Certificate
	ActiveSince  time.Time     // zero in slot Next
	TrustedUntil time.Time     // slot Retired only
	Replaced     time.Time     // since when it is being replaced ahead of time; zero for all others
	SealedKey    string        // armored age file; empty when Retired, and when New until it is sealed
	Recipients   string        // digest of the recipients of SealedKey
	Key          crypto.Signer // only of an authority made by this run, or opened
}

// Authorities are all authorities of a trust domain, oldest first.
type Authorities []*Authority

// ParseAuthorities reads and checks the state object: one Active, at most one Next, every certificate a CA of this
// trust domain, none twice. While authorities whose keys are lost are replaced, there is no Active and one Next.
func ParseAuthorities(state *v1alpha1.CertificateAuthority, td spiffeid.TrustDomain) (Authorities, error) {
	if state.Spec.TrustDomain != td.Name() {
		return nil, fmt.Errorf("spec.trustDomain: is %q, and the config says %q; a trust domain is not renamed: delete the state (the folder mtls/) to start a new CA, and expect an outage until every pod has synced",
			state.Spec.TrustDomain, td.Name())
	}
	var list Authorities
	for i, a := range state.Spec.Authorities {
		certificate, err := parseAuthority(a.Certificate, td)
		if err != nil {
			return nil, fmt.Errorf("spec.authorities[%d].certificate: %w; restore this object from Git", i, err)
		}
		list = append(list, &Authority{Slot: a.Slot, Certificate: certificate, ActiveSince: timeOf(a.ActiveSince), TrustedUntil: timeOf(a.TrustedUntil),
			Replaced: timeOf(a.Replaced), SealedKey: a.SealedKey, Recipients: a.Recipients})
	}
	if active, next := list.count(v1alpha1.SlotActive), list.count(v1alpha1.SlotNext); (active != 1 || next > 1) && !(active == 0 && next == 1 && list.Replacing()) {
		return nil, fmt.Errorf("spec.authorities: holds %d Active and %d Next, want one of each; were two branches merged that had both issued? restore one of them from Git", active, next)
	}
	if _, err := list.Bundle(td); err != nil {
		return nil, fmt.Errorf("spec.authorities: %w; restore this object from Git", err)
	}
	if err := checkDistinct(list.Certificates()); err != nil {
		return nil, fmt.Errorf("spec.authorities: %w; restore this object from Git", err)
	}
	return list, nil
}

func parseAuthority(text string, td spiffeid.TrustDomain) (*x509.Certificate, error) {
	certificates, err := svid.ParseCertificates([]byte(text))
	if err != nil {
		return nil, err
	}
	if len(certificates) != 1 {
		return nil, fmt.Errorf("holds %d certificates, want one", len(certificates))
	}
	if err := checkAuthority(certificates[0], td); err != nil {
		return nil, err
	}
	return certificates[0], nil
}

func (l Authorities) count(slot v1alpha1.Slot) (n int) {
	for _, a := range l {
		if a.Slot == slot {
			n++
		}
	}
	return n
}

// In returns the authority of a slot, or nil.
func (l Authorities) In(slot v1alpha1.Slot) *Authority {
	if i := slices.IndexFunc(l, func(a *Authority) bool { return a.Slot == slot }); i >= 0 {
		return l[i]
	}
	return nil
}

// ActiveCertificate is that of the authority that signs now, or nil.
func (l Authorities) ActiveCertificate() *x509.Certificate {
	if active := l.In(v1alpha1.SlotActive); active != nil {
		return active.Certificate
	}
	return nil
}

// Certificates are those that the bundle publishes.
func (l Authorities) Certificates() []*x509.Certificate {
	var certificates []*x509.Certificate
	for _, a := range l {
		certificates = append(certificates, a.Certificate)
	}
	return certificates
}

// Bundle is what verifies leaves of these authorities.
func (l Authorities) Bundle(td spiffeid.TrustDomain) (*svid.Bundle, error) {
	return svid.NewBundle(td, l.Certificates(), nil)
}

// newAuthority makes a self-signed CA certificate (X.509-SVID standard, sections 3 and 4): a URI name without a path,
// no further CA below it, and a subject and key ID of its own, since verifiers look for issuers by them.
func (p Profile) newAuthority(slot v1alpha1.Slot, now time.Time) (*Authority, error) {
	key, err := generateKey(p.Algorithm)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(spki)
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: fmt.Sprintf("meshless %s %s", p.TrustDomain.Name(), hex.EncodeToString(sum[:8]))},
		URIs:         []*url.URL{p.TrustDomain.ID().URL()},
		NotBefore:    now.Add(-backdate).Truncate(time.Second), NotAfter: now.Add(p.caValidity()).Truncate(time.Second),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: sum[:20],
	}
	certificate, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &Authority{Slot: slot, Certificate: certificate, Key: key}, nil
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}
