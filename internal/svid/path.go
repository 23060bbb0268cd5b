package svid

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// maxPath bounds a path without its authority: a leaf and three intermediates.
	maxPath = 4
	// maxGuesses bounds how many authorities are tried for a certificate that does not say by a key identifier which
	// one has signed it.
	maxGuesses = 2
)

// Tests count what these do.
var (
	checkSignature = (*x509.Certificate).CheckSignatureFrom
	standardVerify = (*x509.Certificate).Verify
)

// search looks for a path from a leaf up to an authority, in the order in which a peer presented its certificates:
// each is signed by the next, the last that counts by an authority of the bundle, and what stands behind it is not
// looked at. crypto/x509 builds paths of certificates in any order instead, and a stranger can make it verify a hundred
// signatures (golang/go#78282). Here all that needs no signature is checked first, and signatures from the authority
// down, so the keys of a stranger are never used: what an authority has not signed ends the search.
type search struct {
	b       *Bundle
	id      spiffeid.ID
	chain   []*x509.Certificate // as presented
	usages  []x509.ExtKeyUsage
	now     time.Time
	refusal error // of the first path that was looked at
}

// anchor is a place where a path may end: the certificate chain[at] may be signed by the authority.
type anchor struct {
	at        int
	authority *x509.Certificate
}

// same tells whether another anchor has the same signature.
func (a anchor) same(other anchor) bool {
	return a.at == other.at && bytes.Equal(a.authority.RawSubjectPublicKeyInfo, other.authority.RawSubjectPublicKeyInfo)
}

// path is a path that verifies, authority included.
func (s *search) path() ([]*x509.Certificate, error) {
	named, guessed := s.anchors()
	var failed []anchor
	for i, a := range append(named, guessed...) {
		if slices.ContainsFunc(failed, a.same) {
			continue
		}
		path, signed := s.try(a)
		if path != nil {
			return path, nil
		}
		if signed {
			continue
		}
		if failed = append(failed, a); i < len(named) || len(failed) == maxGuesses {
			break // no honest chain names a key that has not signed it
		}
	}
	if s.refusal == nil {
		s.refuseUnknown("%s", s.gap())
	}
	return nil, s.refusal
}

// anchors are the places where the path may end, nearest to the leaf first: those that name the key of an authority,
// and those that have its name alone.
func (s *search) anchors() (named, guessed []anchor) {
	for i, c := range s.chain[:s.linked()] {
		for _, ca := range s.b.authorities {
			switch {
			case !bytes.Equal(c.RawIssuer, ca.RawSubject):
			case len(c.AuthorityKeyId) > 0 && bytes.Equal(c.AuthorityKeyId, ca.SubjectKeyId):
				named = append(named, anchor{i, ca})
			default:
				guessed = append(guessed, anchor{i, ca})
			}
		}
	}
	return named, guessed
}

// linked is how many certificates, leaf included, each name the next as their issuer, but for the last of them.
func (s *search) linked() int {
	n := 1
	for n < min(len(s.chain), maxPath) && bytes.Equal(s.chain[n-1].RawIssuer, s.chain[n].RawSubject) {
		n++
	}
	return n
}

// gap says why no authority is found.
func (s *search) gap() string {
	n := s.linked()
	switch {
	case n == maxPath && len(s.chain) > n:
		return fmt.Sprintf("the first %d certificates lead to no authority, and no more are looked at", n)
	case n < len(s.chain):
		return fmt.Sprintf("certificate %d of the chain is not the issuer of certificate %d: each must be signed by the next, the leaf first", n+1, n)
	}
	return fmt.Sprintf("the chain ends with one that is issued by %s", quote(s.chain[n-1].Issuer.CommonName))
}

// try verifies the path that ends at an anchor. Signed is false if a signature is wrong.
func (s *search) try(a anchor) (path []*x509.Certificate, signed bool) {
	path = append(slices.Clone(s.chain[:a.at+1]), a.authority)
	if err := s.checkPath(path); err != nil {
		s.note(err)
		return nil, true
	}
	constrained := slices.ContainsFunc(path, constrains)
	for i := a.at; i >= 0; i-- {
		if i == 0 && constrained {
			break // the standard library verifies it
		}
		if err := s.b.signed(path[i], path[i+1]); err != nil {
			s.refuseUnknown("%v", err)
			return nil, false
		}
	}
	if constrained {
		if err := s.judge(path); err != nil {
			s.refuseUnknown("%v", err)
			return nil, !errors.As(err, new(x509.UnknownAuthorityError))
		}
	}
	if s.b.anyRevoked(path) {
		s.note(refuse(Revoked, "certificate of %s: its key or its authority's key %s is revoked", s.id, KeyDigest(path[0])))
		return nil, true
	}
	return path, true
}

func (s *search) note(err error) {
	if s.refusal == nil {
		s.refusal = err
	}
}

func (s *search) refuseUnknown(format string, args ...any) {
	s.note(s.b.unknown(s.chain[0], s.id, fmt.Sprintf(format, args...)))
}

// checkPath checks all of a path that needs no signature, as RFC 5280, section 6.1, says and crypto/x509 does it.
func (s *search) checkPath(path []*x509.Certificate) error {
	for i, c := range path {
		if err := CheckKey(c); err != nil {
			return refuse(Malformed, "certificate %d of the chain of %s %v", i+1, s.id, err)
		}
		if len(c.UnhandledCriticalExtensions) > 0 {
			return s.b.unknown(path[0], s.id, fmt.Sprintf("certificate %d of its chain has a critical extension that is not known", i+1))
		}
		if i == 0 {
			continue // the rest is checked of the leaf alone, before
		}
		if err := s.checkAbove(path, i); err != nil {
			return err
		}
		for _, below := range path[:i] {
			if bytes.Equal(c.RawSubjectPublicKeyInfo, below.RawSubjectPublicKeyInfo) {
				return refuse(Malformed, "one key stands twice in the chain of %s", s.id)
			}
		}
	}
	return nil
}

// checkAbove checks whether path[i] may stand above the certificates before it.
func (s *search) checkAbove(path []*x509.Certificate, i int) error {
	c, name := path[i], quote(path[i].Subject.CommonName)
	signer := func(why string) error {
		return s.b.unknown(path[0], s.id, fmt.Sprintf("%s in its chain %s", name, why))
	}
	switch {
	case s.now.Before(c.NotBefore), s.now.After(c.NotAfter):
		return refuse(Expired, "the authority %s above the certificate of %s is valid from %s until %s, and it is %s here", name, s.id, stamp(c.NotBefore), stamp(c.NotAfter), stamp(s.now))
	case !c.BasicConstraintsValid || !c.IsCA:
		return signer("is not a CA certificate")
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return signer("lacks the key usage keyCertSign")
	case c.MaxPathLen >= 0 && i-1 > c.MaxPathLen:
		return signer(fmt.Sprintf("allows %d authorities below it, and there are %d", c.MaxPathLen, i-1))
	}
	if of := foreignDomain(c, s.b.trustDomain); of != "" {
		return refuse(UnknownAuthority, "certificate of %s is signed by an authority that names another trust domain", s.id)
	}
	for _, usage := range s.usages {
		if !permits(c, usage) {
			return refuse(WrongUsage, "certificate of %s is not meant for this side of TLS: %s above it permits others alone", s.id, name)
		}
	}
	return nil
}

// permits tells whether an authority permits an extended key usage below it: one that lists none permits all.
func permits(ca *x509.Certificate, usage x509.ExtKeyUsage) bool {
	return len(ca.ExtKeyUsage) == 0 && len(ca.UnknownExtKeyUsage) == 0 || slices.Contains(ca.ExtKeyUsage, x509.ExtKeyUsageAny) || slices.Contains(ca.ExtKeyUsage, usage)
}

// constraining are the extensions by which a certificate constrains those below it: nameConstraints, policyMappings,
// policyConstraints. Without the last, inhibitAnyPolicy has no effect.
var constraining = []asn1.ObjectIdentifier{{2, 5, 29, 30}, {2, 5, 29, 33}, {2, 5, 29, 36}}

func constrains(c *x509.Certificate) bool {
	for _, e := range c.Extensions {
		for _, id := range constraining {
			if e.Id.Equal(id) {
				return true
			}
		}
	}
	return false
}

// judge has crypto/x509 verify a path with constraints of names or policies, which we do not implement. All of it but
// the leaf is known to be signed by an authority, so nobody else can make this expensive.
func (s *search) judge(path []*x509.Certificate) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(path[len(path)-1])
	for _, c := range path[1 : len(path)-1] {
		intermediates.AddCert(c)
	}
	// checkAbove has checked all usages
	_, err := standardVerify(path[0], x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: s.now, KeyUsages: s.usages[:1]})
	return err
}
