package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

const (
	// clockTolerance is how far ahead of this machine's clock a time of the state may lie, when it was written by
	// another machine.
	clockTolerance = time.Hour
	// Serial numbers are random and of 127 bits, so one below minSerialBits was not made here. RFC 5280, section
	// 4.1.2.2, allows 20 octets.
	minSerialBits, maxSerialBits = 64, 160
)

// CheckBundle checks that the certificates of a bundle have the form of our authorities: each is a self-signed CA of
// the trust domain with path length zero, and verifiers can tell all of them apart. Expired ones are no error, since
// every verification checks the time.
func CheckBundle(certificates []*x509.Certificate, td spiffeid.TrustDomain) error {
	if len(certificates) > v1alpha1.MaxAuthorities {
		return fmt.Errorf("holds %d authorities, and no more than %d are read", len(certificates), v1alpha1.MaxAuthorities)
	}
	for _, c := range certificates {
		if err := checkAuthority(c, td); err != nil {
			return fmt.Errorf("holds %q, which %w", c.Subject.CommonName, err)
		}
	}
	return checkDistinct(certificates)
}

// checkAuthority checks that one certificate has the form that newAuthority makes. The algorithm comes before the
// signature: keys of arbitrary size take arbitrary time.
func checkAuthority(c *x509.Certificate, td spiffeid.TrustDomain) error {
	switch {
	case len(c.URIs) != 1 || c.URIs[0].String() != td.IDString():
		return fmt.Errorf("is not an authority of %s", td.IDString())
	case !slices.Contains(v1alpha1.KeyAlgorithms, algorithmOf(c.PublicKey)):
		return errors.New("has a key of an algorithm that no config can ask for")
	case c.CheckSignatureFrom(c) != nil:
		return errors.New("is not a self-signed CA certificate")
	case c.MaxPathLen != 0 || !c.MaxPathLenZero:
		return errors.New("allows authorities below it: its path length is not zero")
	case len(c.SubjectKeyId) == 0:
		return errors.New("has no subject key identifier")
	case !goodSerial(c.SerialNumber):
		return errors.New("has a serial number that is not random")
	}
	return nil
}

func goodSerial(n *big.Int) bool {
	return n.Sign() > 0 && n.BitLen() >= minSerialBits && n.BitLen() <= maxSerialBits
}

// checkDistinct refuses authorities that verifiers cannot tell apart: they look for issuers by subject and by key
// identifier.
func checkDistinct(certificates []*x509.Certificate) error {
	subjects, keys := map[string]bool{}, map[string]bool{}
	for _, c := range certificates {
		if subjects[string(c.RawSubject)] || keys[string(c.SubjectKeyId)] {
			return fmt.Errorf("holds two authorities with the subject or the key identifier of %q, which verifiers cannot tell apart", c.Subject.CommonName)
		}
		subjects[string(c.RawSubject)], keys[string(c.SubjectKeyId)] = true, true
	}
	return nil
}

// CheckTimes refuses times that no render can have written by now: whoever edits them keeps an authority signing for
// ever, or ends one early. The error names the field.
func (l Authorities) CheckTimes(now time.Time) error {
	latest := now.Add(clockTolerance)
	for i, a := range l {
		switch from := a.Certificate.NotBefore; {
		case now.Before(from):
			return fmt.Errorf("spec.authorities[%d].certificate: is valid only from %s, and it is %s here; compare the clocks of this machine and the one that made it", i, stampText(from), stampText(now))
		case a.ActiveSince.After(latest):
			return fmt.Errorf("spec.authorities[%d].activeSince: %s is in the future; compare the clocks, or restore this object from Git", i, stampText(a.ActiveSince))
		case !a.ActiveSince.IsZero() && a.ActiveSince.Before(from):
			return fmt.Errorf("spec.authorities[%d].activeSince: %s is before its certificate was made; restore this object from Git", i, stampText(a.ActiveSince))
		case a.Replaced.After(latest):
			return fmt.Errorf("spec.authorities[%d].replaced: %s is in the future; compare the clocks, or restore this object from Git", i, stampText(a.Replaced))
		}
	}
	active, next := l.In(v1alpha1.SlotActive), l.In(v1alpha1.SlotNext)
	if active != nil && next != nil && next.Certificate.NotBefore.Before(active.Certificate.NotBefore) {
		return errors.New("spec.authorities: the Next is older than the Active, so their slots were exchanged; restore this object from Git")
	}
	return nil
}

// Extend is the list in which each retired authority is trusted for as long as any of the leaves that it signed: a
// branch that is merged late may hold one that was signed after the authority had retired elsewhere, and a date may
// have been edited. An authority that is replaced, since its key is in wrong hands, is not extended.
func (l Authorities) Extend(leaves []*x509.Certificate) Authorities {
	out := slices.Clone(l)
	for i, a := range out {
		if a.Slot != v1alpha1.SlotRetired || !a.Replaced.IsZero() {
			continue
		}
		for _, leaf := range leaves {
			until := leaf.NotAfter
			if until.After(a.Certificate.NotAfter) {
				until = a.Certificate.NotAfter
			}
			if until = until.Add(keepRetired); until.After(out[i].TrustedUntil) && signedBy(leaf, a.Certificate) && leaf.CheckSignatureFrom(a.Certificate) == nil {
				kept := *out[i]
				kept.TrustedUntil = until
				out[i] = &kept
			}
		}
	}
	return out
}

// CutsShort tells whether a leaf that the authority signs now lives shorter than the config says, since it would else
// outlive its authority.
func (p Profile) CutsShort(a *Authority, now time.Time) bool { return a != nil && !p.canSign(a, now) }

// leafFault says what is wrong with a leaf that verifies, and which nobody but the owner of an authority's key can have
// made so; "" for nothing.
func leafFault(leaf *x509.Certificate, authorities []*x509.Certificate) string {
	outlives := func(ca *x509.Certificate) bool { return signedBy(leaf, ca) && leaf.NotAfter.After(ca.NotAfter) }
	switch {
	case slices.ContainsFunc(authorities, outlives):
		return "its certificate outlives its authority"
	case !goodSerial(leaf.SerialNumber):
		return "its certificate has a serial number that is not random"
	case len(leaf.IPAddresses) > 0 || len(leaf.EmailAddresses) > 0 || len(leaf.Subject.Names) > 0:
		return "its certificate names more than the workload and its Services"
	}
	return ""
}
