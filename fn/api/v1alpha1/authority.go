package v1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

// Slot is the stage of an authority's life. There is at most one Next and exactly one Active.
type Slot string

// The slots, in the order in which an authority passes them.
const (
	SlotNext    Slot = "Next"    // published in every bundle, signs nothing yet
	SlotActive  Slot = "Active"  // signs
	SlotRetired Slot = "Retired" // key gone, certificate trusted until TrustedUntil
)

// CertificateAuthority is the state of the rolling CA. It is never applied to a cluster: it carries
// config.kubernetes.io/local-config.
type CertificateAuthority struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              CertificateAuthoritySpec `json:"spec"`
}

// CertificateAuthoritySpec lists the authorities of one trust domain, and the keys that it trusts no more.
type CertificateAuthoritySpec struct {
	TrustDomain string       `json:"trustDomain"`
	Authorities []Authority  `json:"authorities"`
	Revoked     []RevokedKey `json:"revoked,omitempty"`
}

// RevokedKey is a key that peers refuse although its certificate is valid.
type RevokedKey struct {
	Key      string      `json:"key"`      // SHA-256 of the SubjectPublicKeyInfo, 64 lower-case hexadecimal digits
	SPIFFEID string      `json:"spiffeID"` // whose key it was
	Until    metav1.Time `json:"until"`    // when the entry may go: a day after the key's last certificate expired
}

// Authority is one CA certificate with its sealed key.
type Authority struct {
	Slot         Slot         `json:"slot"`
	ActiveSince  *metav1.Time `json:"activeSince,omitempty"`  // Active and Retired
	TrustedUntil *metav1.Time `json:"trustedUntil,omitempty"` // Retired: 24 h after the last leaf it signed expires
	// since when it is being replaced ahead of time: its key is lost or in wrong hands
	Replaced    *metav1.Time `json:"replaced,omitempty"`
	Recipients  string       `json:"recipients,omitempty"` // digest of the recipients of SealedKey
	Certificate string       `json:"certificate"`          // PEM
	SealedKey   string       `json:"sealedKey,omitempty"`  // Next and Active: PKCS#8 PEM in an armored age file
}

// MaxAuthorities bounds how many authorities are read, so that a hostile state costs no time. A config makes about a
// hundred at most: see maxPeriods.
const MaxAuthorities = 1000

// ParseCertificateAuthority reads the state object strictly. It checks the shape; package certs checks the
// certificates.
func ParseCertificateAuthority(node *yaml.RNode) (*CertificateAuthority, error) {
	var ca CertificateAuthority
	if err := decodeStrict(node, &ca); err != nil {
		return nil, err
	}
	if n := len(ca.Spec.Authorities); n > MaxAuthorities {
		return nil, fmt.Errorf("spec.authorities: holds %d authorities, and no more than %d are read; restore this object from Git", n, MaxAuthorities)
	}
	for i, a := range ca.Spec.Authorities {
		path := fmt.Sprintf("spec.authorities[%d]", i)
		switch {
		case a.Slot != SlotNext && a.Slot != SlotActive && a.Slot != SlotRetired:
			return nil, fmt.Errorf("%s.slot: %q is not Next, Active or Retired; restore this object from Git", path, a.Slot)
		case a.Slot != SlotRetired && a.SealedKey == "":
			return nil, fmt.Errorf("%s.sealedKey: an authority in slot %s has a key; restore this object from Git", path, a.Slot)
		case a.Slot == SlotRetired && a.TrustedUntil == nil:
			return nil, fmt.Errorf("%s.trustedUntil: is missing; restore this object from Git", path)
		case a.Slot == SlotActive && a.ActiveSince == nil:
			return nil, fmt.Errorf("%s.activeSince: is missing; restore this object from Git", path)
		case a.Slot == SlotRetired && a.SealedKey != "":
			return nil, fmt.Errorf("%s.sealedKey: a Retired authority has no key any more; delete the field, or restore this object from Git", path)
		case a.Slot == SlotNext && (a.ActiveSince != nil || a.TrustedUntil != nil || a.Replaced != nil), a.Slot == SlotActive && a.TrustedUntil != nil:
			return nil, fmt.Errorf("%s: has a time that an authority in slot %s does not have; restore this object from Git", path, a.Slot)
		}
	}
	for i, k := range ca.Spec.Revoked {
		path := fmt.Sprintf("spec.revoked[%d]", i)
		if err := meshmap.ValidateKeyDigest(k.Key); err != nil {
			return nil, fmt.Errorf("%s.key: %w; restore this object from Git", path, err)
		}
		if k.Until.IsZero() {
			return nil, fmt.Errorf("%s.until: is missing; restore this object from Git", path)
		}
	}
	return &ca, nil
}
