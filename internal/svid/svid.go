// Package svid verifies X.509-SVIDs and trust bundles. Function, proxy and tests verify with this code alone, so that
// what a render accepts is what a handshake accepts. Every check fails closed.
package svid

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Reason classifies a refusal, for metrics and for hints. It is a small closed set.
type Reason string

// The reasons of a refusal.
const (
	NoCertificate    Reason = "no_certificate"
	Malformed        Reason = "malformed"
	NotYetValid      Reason = "not_yet_valid"
	Expired          Reason = "expired"
	UnknownAuthority Reason = "unknown_authority"
	WrongUsage       Reason = "wrong_usage"
	NotAnSVID        Reason = "not_an_svid"
	WrongTrustDomain Reason = "wrong_trust_domain"
	Revoked          Reason = "revoked"
)

// Error is a refusal of a certificate.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return e.Detail }

func refuse(reason Reason, format string, args ...any) error {
	return &Error{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// Bundle is the set of CA certificates that a trust domain trusts, and the keys that it does not any more. What
// it says of a chain never changes.
type Bundle struct {
	trustDomain spiffeid.TrustDomain
	authorities []*x509.Certificate
	revoked     map[string]bool
	proven      proven
}

// NewBundle makes a bundle. Revoked are digests as KeyDigest returns them. No authority, one that is not a CA, one that
// names another trust domain and one that is listed twice are errors; an expired one is not, since every
// verification checks the time.
func NewBundle(td spiffeid.TrustDomain, authorities []*x509.Certificate, revoked []string) (*Bundle, error) {
	if len(authorities) == 0 {
		return nil, errors.New("bundle holds no certificate")
	}
	b := &Bundle{trustDomain: td, authorities: authorities, revoked: map[string]bool{}, proven: proven{seen: map[[sha256.Size]byte]bool{}}}
	seen := map[string]bool{}
	for _, ca := range authorities {
		if err := CheckAuthority(ca, td); err != nil {
			return nil, fmt.Errorf("bundle of trust domain %q holds %q, which %w", td.Name(), ca.Subject, err)
		}
		if seen[string(ca.Raw)] {
			return nil, fmt.Errorf("bundle holds %q twice", ca.Subject)
		}
		seen[string(ca.Raw)] = true
	}
	for _, digest := range revoked {
		b.revoked[digest] = true
	}
	return b, nil
}

// CheckAuthority tells why a certificate cannot be an authority of a trust domain: it can sign no leaf, it names
// another trust domain, or its key is one that CheckKey refuses. It does not check the validity in time. The error is a
// predicate of the certificate.
func CheckAuthority(ca *x509.Certificate, td spiffeid.TrustDomain) error {
	if !ca.IsCA || !ca.BasicConstraintsValid {
		return errors.New("is not a CA certificate, so it can sign no leaf")
	}
	if ca.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("lacks the key usage keyCertSign, so it can sign no leaf (openssl: -addext keyUsage=critical,keyCertSign,cRLSign)")
	}
	if of := foreignDomain(ca, td); of != "" {
		return fmt.Errorf("names %s", of)
	}
	return CheckKey(ca)
}

// Authorities are the certificates of the bundle, in its order.
func (b *Bundle) Authorities() []*x509.Certificate { return b.authorities }

// Verify checks the certificates that a peer presented, leaf first, for one usage (server or client authentication) at
// one time, and returns the peer's SPIFFE ID. The rules are those of the X.509-SVID standard, sections 4 and 5, with
// the extended key usage mandatory. Every error is an *Error.
func (b *Bundle) Verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (spiffeid.ID, error) {
	id, _, err := b.verify(chain, []x509.ExtKeyUsage{usage}, now)
	return id, err
}

// VerifyLeaf checks a stored leaf for both sides of TLS at once, as Verify would one after the other.
func (b *Bundle) VerifyLeaf(leaf *x509.Certificate, now time.Time) (spiffeid.ID, error) {
	id, _, err := b.verify([]*x509.Certificate{leaf}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, now)
	return id, err
}

// maxChain is in bytes: three certificates of RSA-4096 are 6 KiB. Parsed, certificates can be forty times as large as
// they came, and a peer that has not proved its key yet could make us hold them while it keeps us waiting for that.
const maxChain = 8 << 10

// verify wants every one of the usages in the leaf itself. It returns the chain that it found, up to the authority.
func (b *Bundle) verify(chain []*x509.Certificate, usages []x509.ExtKeyUsage, now time.Time) (spiffeid.ID, []*x509.Certificate, error) {
	if len(chain) == 0 {
		return spiffeid.ID{}, nil, refuse(NoCertificate, "peer presented no certificate")
	}
	leaf := chain[0]
	id, err := b.identity(leaf)
	if err != nil {
		return spiffeid.ID{}, nil, err
	}
	if err := checkSize(chain); err != nil {
		return spiffeid.ID{}, nil, err
	}
	for _, usage := range usages {
		if !slices.Contains(leaf.ExtKeyUsage, usage) {
			// crypto/x509 takes no extended key usage, and "any", for every usage
			return spiffeid.ID{}, nil, refuse(WrongUsage, "certificate of %s is not meant for this side of TLS", id)
		}
	}
	if err := checkTime(leaf, id, now); err != nil {
		return spiffeid.ID{}, nil, err
	}
	s := search{b: b, id: id, chain: chain, usages: usages, now: now}
	path, err := s.path()
	if err != nil {
		return spiffeid.ID{}, nil, err
	}
	return id, path, nil
}

func checkSize(chain []*x509.Certificate) error {
	size := 0
	for _, c := range chain {
		size += len(c.Raw)
	}
	if size > maxChain {
		return refuse(Malformed, "the peer presented %d bytes of certificates, more than any chain of a mesh", size)
	}
	return nil
}

// checkTime says what an operator wants to know of a leaf that is not valid: which clock.
func checkTime(leaf *x509.Certificate, id spiffeid.ID, now time.Time) error {
	switch {
	case now.Before(leaf.NotBefore):
		return refuse(NotYetValid, "certificate of %s is valid from %s, and it is %s here: compare the clocks", id, stamp(leaf.NotBefore), stamp(now))
	case now.After(leaf.NotAfter):
		return refuse(Expired, "certificate of %s expired at %s, and it is %s here: was it renewed in Git and synced?", id, stamp(leaf.NotAfter), stamp(now))
	}
	return nil
}

// identity reads the SPIFFE ID and checks everything that needs no chain.
func (b *Bundle) identity(leaf *x509.Certificate) (spiffeid.ID, error) {
	id, err := nameOf(leaf)
	if err != nil {
		return spiffeid.ID{}, err
	}
	switch {
	case id.Path() == "":
		return spiffeid.ID{}, refuse(NotAnSVID, "certificate names the trust domain %s, not a workload", id)
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return spiffeid.ID{}, refuse(NotAnSVID, "certificate of %s is a CA's", id)
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return spiffeid.ID{}, refuse(WrongUsage, "certificate of %s lacks the key usage digitalSignature", id)
	case id.TrustDomain() != b.trustDomain:
		return spiffeid.ID{}, refuse(WrongTrustDomain, "certificate of %s is not of trust domain %q", id, b.trustDomain.Name())
	}
	return id, nil
}

// maxID is from the SPIFFE ID standard, section 2.3.
const maxID = 2048

// nameOf reads the one SPIFFE ID of a leaf. Nothing of it is proved yet.
func nameOf(leaf *x509.Certificate) (spiffeid.ID, error) {
	if len(leaf.URIs) != 1 {
		return spiffeid.ID{}, refuse(NotAnSVID, "certificate has %d URI names, an X.509-SVID has exactly one", len(leaf.URIs))
	}
	if n := len(leaf.URIs[0].String()); n > maxID {
		return spiffeid.ID{}, refuse(NotAnSVID, "certificate has a URI name of %d bytes, and a SPIFFE ID has %d at most", n, maxID)
	}
	id, err := spiffeid.FromURI(leaf.URIs[0])
	if err != nil {
		return spiffeid.ID{}, refuse(NotAnSVID, "certificate names %q: %v", leaf.URIs[0], err)
	}
	return id, nil
}

func (b *Bundle) anyRevoked(chain []*x509.Certificate) bool {
	revoked := func(c *x509.Certificate) bool { return b.revoked[KeyDigest(c)] }
	return len(b.revoked) > 0 && slices.ContainsFunc(chain, revoked)
}

// unknown refuses a leaf that no authority of the bundle stands for, and says what an operator wants to know: which
// authority.
func (b *Bundle) unknown(leaf *x509.Certificate, id spiffeid.ID, why string) error {
	return refuse(UnknownAuthority, "certificate of %s is signed by no authority of the bundle: it names %s, and the bundle holds %s (%s)", id, quote(leaf.Issuer.CommonName), b.names(), why)
}

// quote is a name of a certificate that may be anybody's, and as long as they like.
func quote(name string) string {
	const enough = 64
	if len(name) > enough {
		name = name[:enough] + "..."
	}
	return strconv.Quote(name)
}

// names are the subjects of the authorities, the first few.
func (b *Bundle) names() string {
	const few = 5
	var names []string
	for i, ca := range b.authorities {
		if i == few {
			names = append(names, fmt.Sprintf("%d more", len(b.authorities)-few))
			break
		}
		names = append(names, strconv.Quote(ca.Subject.CommonName))
	}
	return strings.Join(names, ", ")
}

// KeyDigest is the lower-case hexadecimal SHA-256 of the certificate's SubjectPublicKeyInfo, the form of revoked keys.
func KeyDigest(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Fingerprint is the lower-case hexadecimal SHA-256 of the certificate itself: it names one certificate, where
// KeyDigest names a key.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// ParseCertificates reads PEM blocks of type CERTIFICATE and nothing else: other blocks, headers and text around them
// are errors, so that a key pasted beside a certificate is noticed. It never quotes the input.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(data); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, errors.New("holds text that is not PEM")
		}
		block, after := pem.Decode(rest)
		if block == nil {
			return nil, errors.New("holds a broken PEM block")
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, errors.New("holds a PEM block that is not a certificate")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a broken certificate: %w", err)
		}
		certs, rest = append(certs, c), after
	}
	if len(certs) == 0 {
		return nil, errors.New("holds no certificate")
	}
	if bytes.Count(data, []byte("-----BEGIN ")) != len(certs) { // pem.Decode skips a broken block that another follows
		return nil, errors.New("holds a broken PEM block")
	}
	return certs, nil
}

// EncodeCertificates is the PEM text of certs.
func EncodeCertificates(certs ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certs {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return out.Bytes()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
