package v1alpha1

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
)

// Federation is another trust domain. Its authorities vouch for identities of that trust domain alone, and those are
// let in only where a rule names them.
type Federation struct {
	TrustDomain string `json:"trustDomain"` // of the others; never ours
	// CA certificates in PEM, or a SPIFFE bundle document (JSON), as `meshless bundle` prints them
	Bundle string `json:"bundle"`
	// networks of the others: mutual TLS, and a server of their trust domain, or nothing
	CIDRs []netip.Prefix `json:"cidrs,omitempty"`
	// patterns of SPIFFE IDs that may answer in cidrs; default any of their trust domain
	Identities []string `json:"identities,omitempty"`
}

// Mesh is the entry of the mesh map: with the bundle in PEM, whatever it was written in.
func (f Federation) Mesh() (meshmap.Federation, error) {
	authorities, err := f.Authorities()
	if err != nil {
		return meshmap.Federation{}, err
	}
	return meshmap.Federation{TrustDomain: f.TrustDomain, Bundle: string(svid.EncodeCertificates(authorities...)), CIDRs: f.CIDRs, Identities: f.Identities}, nil
}

// Authorities reads the bundle in either form. Package svid checks whether they are CA certificates of this trust
// domain.
func (f Federation) Authorities() ([]*x509.Certificate, error) {
	text := bytes.TrimSpace([]byte(f.Bundle))
	if !bytes.HasPrefix(text, []byte("{")) {
		return svid.ParseCertificates(text)
	}
	td, err := spiffeid.TrustDomainFromString(f.TrustDomain)
	if err != nil {
		return nil, err
	}
	entries, err := checkDocument(text)
	if err != nil {
		return nil, err
	}
	bundle, err := spiffebundle.Parse(td, text)
	if err != nil {
		return nil, fmt.Errorf("is no SPIFFE bundle: %w", err)
	}
	authorities := bundle.X509Authorities()
	switch {
	case entries == 0:
		return nil, errors.New("holds no key of use x509-svid, so that trust domain issues no X.509-SVIDs")
	case len(authorities) != entries: // go-spiffe takes them as one
		return nil, errors.New("holds a certificate twice")
	}
	return authorities, nil
}

// checkDocument counts the entries for X.509-SVIDs of a SPIFFE bundle (SPIFFE Trust Domain and Bundle, section 4), and
// refuses one with a private key.
func checkDocument(text []byte) (entries int, err error) {
	var document struct {
		Keys []map[string]json.RawMessage `json:"keys"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&document); err != nil {
		return 0, fmt.Errorf("is no SPIFFE bundle: %w", err)
	}
	if decoder.More() {
		return 0, errors.New("is no SPIFFE bundle: has text behind its end")
	}
	for _, key := range document.Keys {
		for _, private := range []string{"d", "k", "p", "q", "dp", "dq", "qi", "oth"} {
			// RFC 7518, sections 6.2.2, 6.3.2 and 6.4
			if key[private] != nil {
				return 0, errors.New("holds a private key; consider it leaked, and give the public part alone")
			}
		}
		if string(key["use"]) == `"x509-svid"` {
			entries++
		}
	}
	return entries, nil
}

// federationShape is the federation without its bundles.
func (s Spec) federationShape() (shape []meshmap.Federation) {
	for _, f := range s.Federation {
		shape = append(shape, meshmap.Federation(f))
	}
	return shape
}

// federation checks everything that needs neither the time nor our own authorities, which the render knows.
func (v *validator) federation(s Spec) {
	for _, err := range meshmap.ValidateFederation(s.TrustDomain, s.federationShape(), s.Outbound.MeshCIDRs) {
		v.fail("spec."+err.Path, "%s", err.Message)
	}
	var bundles []*svid.Bundle
	for i, f := range s.Federation {
		field := fmt.Sprintf("spec.federation[%d]", i)
		td, err := spiffeid.TrustDomainFromString(f.TrustDomain)
		if err != nil || strings.TrimSpace(f.Bundle) == "" {
			continue // said above
		}
		authorities, err := f.Authorities()
		if err != nil {
			v.fail(field+".bundle", "%v", err)
			continue
		}
		bundle, err := svid.NewBundle(td, authorities, nil)
		if err != nil {
			v.fail(field+".bundle", "%v", err)
			continue
		}
		bundles = append(bundles, bundle)
		v.federatedBypass(field, f, s.Outbound.ExcludeCIDRs)
	}
	if err := svid.Disjoint(bundles...); err != nil {
		v.fail("spec.federation", "%v", err)
	}
}

// federatedBypass refuses networks that must never see plaintext and that the proxy never sees.
func (v *validator) federatedBypass(field string, f Federation, excluded []netip.Prefix) {
	for i, p := range f.CIDRs {
		for _, x := range excluded {
			if p.Overlaps(x) {
				v.fail(fmt.Sprintf("%s.cidrs[%d]", field, i), "%s overlaps with %s of outbound.excludeCIDRs, which bypasses the proxy in plaintext", p, x)
			}
		}
	}
}
