package svid

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

// Set is our own bundle and those of federated trust domains, one each. Each vouches for identities of its own trust
// domain alone: what an authority of one domain signs is nothing in another (SPIFFE Trust Domain and Bundle, section
// 3). It is immutable.
type Set struct {
	own     *Bundle
	domains map[spiffeid.TrustDomain]*Bundle // own among them
	foreign []*Bundle                        // in the order of the federation
}

// NewSet adds the bundles of a federation to our own, with our revoked keys. A trust domain that stands twice, and an
// authority, or the key of one, that two trust domains share, are errors: such an authority could name anybody in both
// (SPIFFE Trust Domain and Bundle, section 6.4).
func NewSet(own *Bundle, federation []meshmap.Federation) (*Set, error) {
	s := &Set{own: own, domains: map[spiffeid.TrustDomain]*Bundle{own.trustDomain: own}}
	for _, f := range federation {
		b, err := ParseFederation(f)
		if err != nil {
			return nil, fmt.Errorf("federation with %q: %w", f.TrustDomain, err)
		}
		b.revoked = own.revoked // a key that we do not trust any more is not trusted in any trust domain
		if s.domains[b.trustDomain] != nil {
			return nil, fmt.Errorf("federation with %q: this trust domain has a bundle already", f.TrustDomain)
		}
		s.domains[b.trustDomain] = b
		s.foreign = append(s.foreign, b)
	}
	if err := Disjoint(append([]*Bundle{own}, s.foreign...)...); err != nil {
		return nil, err
	}
	return s, nil
}

// ParseFederation reads the bundle of one federated trust domain. It has no revoked keys, and is not compared with any
// other bundle.
func ParseFederation(f meshmap.Federation) (*Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(f.TrustDomain)
	if err != nil {
		return nil, err
	}
	authorities, err := ParseCertificates([]byte(f.Bundle))
	if err != nil {
		return nil, fmt.Errorf("bundle %w", err)
	}
	return NewBundle(td, authorities, nil)
}

// Disjoint checks that no key of an authority is in two bundles.
func Disjoint(bundles ...*Bundle) error {
	whose := map[string]*Bundle{}
	for _, b := range bundles {
		for _, ca := range b.authorities {
			key := KeyDigest(ca)
			if other := whose[key]; other != nil && other != b {
				return fmt.Errorf("authority %q is in the bundles of the trust domains %q and %q: they must not be mixed, was the wrong bundle pasted?",
					ca.Subject, other.trustDomain.Name(), b.trustDomain.Name())
			}
			whose[key] = b
		}
	}
	return nil
}

// Foreign are the bundles of the federated trust domains.
func (s *Set) Foreign() []*Bundle { return s.foreign }

// Verify is Bundle.Verify under the one bundle of the trust domain that the leaf names. That name is only a claim until
// the chain is verified under exactly this bundle: an authority of another trust domain cannot make it true.
func (s *Set) Verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (spiffeid.ID, error) {
	id, _, err := s.verify(chain, usage, now)
	return id, err
}

func (s *Set) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (spiffeid.ID, []*x509.Certificate, error) {
	if len(chain) == 0 {
		return spiffeid.ID{}, nil, refuse(NoCertificate, "peer presented no certificate")
	}
	id, err := nameOf(chain[0])
	if err != nil {
		return spiffeid.ID{}, nil, err
	}
	b := s.domains[id.TrustDomain()]
	if b == nil {
		return spiffeid.ID{}, nil, refuse(WrongTrustDomain, "certificate of %s is not of trust domain %q, nor of one that is federated", id, s.own.trustDomain.Name())
	}
	return b.verify(chain, []x509.ExtKeyUsage{usage}, now)
}

// TrustDomain is the trust domain that the bundle belongs to.
func (b *Bundle) TrustDomain() spiffeid.TrustDomain { return b.trustDomain }

// Until is when the last authority of the bundle expires.
func (b *Bundle) Until() time.Time {
	return slices.MaxFunc(b.authorities, func(x, y *x509.Certificate) int { return x.NotAfter.Compare(y.NotAfter) }).NotAfter
}

// foreignDomain is the SPIFFE ID of a CA certificate that is not of td, or empty. A CA may have none; that one resides
// in the trust domain of the leaves below it is what X.509-SVID, section 3.2, recommends, and what is wanted here:
// anything else is most likely the wrong bundle.
func foreignDomain(ca *x509.Certificate, td spiffeid.TrustDomain) string {
	at := slices.IndexFunc(ca.URIs, func(u *url.URL) bool {
		return strings.EqualFold(u.Scheme, "spiffe") && !strings.EqualFold(u.Host, td.Name())
	})
	if at < 0 {
		return ""
	}
	return ca.URIs[at].String()
}
