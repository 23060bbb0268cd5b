package certs

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/svid"
)

// Request is what one workload needs, and what it has.
type Request struct {
	ID         spiffeid.ID
	DNSNames   []string          // sorted
	Recipients string            // digest of those to whom its key must be sealed
	Stored     *Stored           // nil: nothing
	Active     *x509.Certificate // the authority that signs now; nil where it is not known

	Replaced []*x509.Certificate // authorities whose leaves are to be replaced now, see Authorities.Replaced
	Renew    bool                // somebody asks for a new leaf
}

// Stored is a leaf as the state holds it.
type Stored struct {
	Record
	LeafPEM  string
	KeyFault string // what is wrong with the sealed key as far as it can be told without opening it; "" for nothing
}

// Leaf is a certificate with its key.
type Leaf struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// Reason is why a leaf is to be issued. The zero Reason is none: its bytes are kept.
type Reason struct {
	Text string
	// the leaf still works and is merely in its renewal window: a render that may not issue keeps it and warns
	Due bool
}

// None tells whether the leaf is kept.
func (r Reason) None() bool { return r.Text == "" }

func because(format string, args ...any) Reason { return Reason{Text: fmt.Sprintf(format, args...)} }

// Evaluate tells whether the stored leaf of a request is to be replaced at now. Its answer depends on public material
// alone.
func (p Profile) Evaluate(r Request, bundle *svid.Bundle, now time.Time) Reason {
	if r.Stored == nil {
		return because("it has none yet")
	}
	certificates, err := svid.ParseCertificates([]byte(r.Stored.LeafPEM))
	if err != nil || len(certificates) != 1 {
		return because("tls.crt does not hold exactly one certificate")
	}
	leaf := certificates[0]
	if reason := p.evaluateTrust(r, leaf, bundle, now); !reason.None() {
		return reason
	}
	if reason := p.evaluateConfig(r, leaf, bundle); !reason.None() {
		return reason
	}
	if now.After(r.Stored.Due(leaf, p.RenewBefore)) || p.cutShort(leaf) && r.Active != nil && !signedBy(leaf, r.Active) {
		return Reason{Text: "it expires at " + stampText(leaf.NotAfter), Due: true}
	}
	return Reason{}
}

// evaluateTrust asks whether peers would accept the leaf, both as a server's and as a client's.
func (p Profile) evaluateTrust(r Request, leaf *x509.Certificate, bundle *svid.Bundle, now time.Time) Reason {
	id, err := bundle.VerifyLeaf(leaf, now)
	switch {
	case err != nil:
		return because("%s", wording(leaf, err))
	case id != r.ID:
		return because("its certificate is for %s", id)
	}
	switch {
	case r.Stored.KeyDigest != svid.KeyDigest(leaf):
		return because("its certificate and its sealed key belong to different keys")
	case r.Stored.KeyFault != "":
		return because("%s", r.Stored.KeyFault)
	}
	if fault := leafFault(leaf, bundle.Authorities()); fault != "" {
		return because("%s", fault)
	}
	return Reason{}
}

// evaluateConfig asks whether the leaf is what the config and the manifests ask for now.
func (p Profile) evaluateConfig(r Request, leaf *x509.Certificate, bundle *svid.Bundle) Reason {
	switch {
	case r.Stored.Recipients != r.Recipients:
		return because("the recipients changed")
	case !slices.Equal(leaf.DNSNames, r.DNSNames):
		return because("the Services that select it changed")
	case slices.ContainsFunc(r.Replaced, func(ca *x509.Certificate) bool { return signedBy(leaf, ca) }):
		return because("its authority is being replaced")
	case r.Renew:
		return because("a new one was asked for")
	case algorithmOf(leaf.PublicKey) != p.Algorithm:
		return because("the key algorithm changed to %s", p.Algorithm)
	case leaf.NotAfter.Sub(leaf.NotBefore) != p.Validity+backdate && !(p.cutShort(leaf) && endsWithItsAuthority(leaf, bundle)):
		return because("the validity changed to %s", p.Validity)
	}
	return Reason{}
}

// cutShort tells whether a leaf is shorter than the profile asks for.
func (p Profile) cutShort(leaf *x509.Certificate) bool {
	return leaf.NotAfter.Sub(leaf.NotBefore) < p.Validity+backdate
}

// endsWithItsAuthority tells whether a leaf ends because its authority does; such a leaf is shorter than the profile
// asks for and still right.
func endsWithItsAuthority(leaf *x509.Certificate, bundle *svid.Bundle) bool {
	return slices.ContainsFunc(bundle.Authorities(), func(ca *x509.Certificate) bool {
		return signedBy(leaf, ca) && ca.NotAfter.Equal(leaf.NotAfter)
	})
}

func signedBy(leaf, ca *x509.Certificate) bool {
	return string(ca.SubjectKeyId) == string(leaf.AuthorityKeyId)
}

// wording says a verifier's refusal as the author of a manifest needs it; the verifier words it for whoever reads a
// proxy's log.
func wording(leaf *x509.Certificate, err error) string {
	var refused *svid.Error
	if errors.As(err, &refused) {
		switch refused.Reason {
		case svid.Expired:
			return "it expired at " + stampText(leaf.NotAfter)
		case svid.NotYetValid:
			return "it is valid only from " + stampText(leaf.NotBefore)
		case svid.UnknownAuthority:
			return "no authority of the bundle signed it"
		case svid.Revoked:
			return "its key is revoked"
		}
	}
	return err.Error()
}

func stampText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Issue makes a leaf with a new key, signed by the authority, whose key must be there. It never outlives the authority.
func (p Profile) Issue(r Request, ca *Authority, now time.Time) (*Leaf, error) {
	key, err := generateKey(p.Algorithm)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	from := now.Add(-backdate).Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: serial, URIs: []*url.URL{r.ID.URL()}, DNSNames: r.DNSNames,
		NotBefore: from, NotAfter: from.Add(backdate + p.Validity),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if template.NotAfter.After(ca.Certificate.NotAfter) {
		template.NotAfter = ca.Certificate.NotAfter
	}
	if !template.NotAfter.After(now) {
		return nil, fmt.Errorf("the authority %q has expired", ca.Certificate.Subject)
	}
	certificate, err := sign(template, ca.Certificate, key.Public(), ca.Key)
	if err != nil {
		return nil, err
	}
	if fault := leafFault(certificate, []*x509.Certificate{ca.Certificate}); fault != "" {
		return nil, errors.New(fault)
	}
	return &Leaf{Certificate: certificate, Key: key}, nil
}

// Unlock attaches an opened key to its authority.
func (a *Authority) Unlock(text []byte) error {
	key, err := svid.ParseKey(text)
	if err != nil {
		return err
	}
	if !svid.KeyFits(a.Certificate, key) {
		return errors.New("is the key of another certificate")
	}
	a.Key = key
	return nil
}
