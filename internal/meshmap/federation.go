package meshmap

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/netset"
)

// Federation is another trust domain, known by its bundle. Its authorities vouch for identities of that trust domain
// and of no other, and such an identity is let in only where a rule names it.
type Federation struct {
	TrustDomain string `json:"trustDomain"`
	Bundle      string `json:"bundle"` // PEM certificates; package svid checks them
	// networks of theirs: mutual TLS, and a server of that trust domain, or nothing
	CIDRs []netip.Prefix `json:"cidrs,omitempty"`
	// patterns of those that may answer in CIDRs; none means any identity of that trust domain
	Identities []string `json:"identities,omitempty"`
}

// Federated is the entry of a trust domain, or nil: it is ours, or it is not trusted.
func (m *Map) Federated(trustDomain string) *Federation {
	for i := range m.Federation {
		if m.Federation[i].TrustDomain == trustDomain {
			return &m.Federation[i]
		}
	}
	return nil
}

// FieldError is one mistake in a field.
type FieldError struct{ Path, Message string }

func (e FieldError) Error() string { return e.Path + ": " + e.Message }

func fieldErrorf(path, format string, args ...any) FieldError {
	return FieldError{path, fmt.Sprintf(format, args...)}
}

// ValidateFederation checks what needs no certificate to be parsed: trust domains that are others and stand once,
// networks that are disjoint from each other's and from meshCIDRs, and patterns of the entry's own trust domain. The
// errors are in the order of the entries, each with its field like federation[0].cidrs[0].
func ValidateFederation(own string, federation []Federation, meshCIDRs []netip.Prefix) []FieldError {
	var errs []FieldError
	taken := map[netip.Prefix]string{}
	for _, p := range meshCIDRs {
		taken[p] = "outbound.meshCIDRs"
	}
	seen := map[string]bool{own: true}
	for i, f := range federation {
		field := fmt.Sprintf("federation[%d]", i)
		for _, err := range append(f.validate(own, seen), f.validateCIDRs(taken)...) {
			errs = append(errs, FieldError{field + "." + err.Path, err.Message})
		}
		seen[f.TrustDomain] = true
		for _, p := range f.CIDRs {
			taken[p] = field + ".cidrs"
		}
	}
	return errs
}

func (f Federation) validate(own string, seen map[string]bool) (errs []FieldError) {
	td, err := spiffeid.TrustDomainFromString(f.TrustDomain)
	switch {
	case err != nil || td.Name() != f.TrustDomain:
		errs = append(errs, fieldErrorf("trustDomain", "%q is not the name of a SPIFFE trust domain, like example.org", f.TrustDomain))
	case f.TrustDomain == own:
		errs = append(errs, fieldErrorf("trustDomain", "%q is our own; two meshes of one name cannot be told apart, rename one of them", own))
	case seen[f.TrustDomain]:
		errs = append(errs, fieldErrorf("trustDomain", "%q is federated twice; write one entry with both bundles' certificates", f.TrustDomain))
	}
	if strings.TrimSpace(f.Bundle) == "" {
		errs = append(errs, fieldErrorf("bundle", "is missing; `meshless bundle` on the other side prints it"))
	}
	for i, pattern := range f.Identities {
		if err := ValidateIDPattern(pattern); err != nil {
			errs = append(errs, fieldErrorf(fmt.Sprintf("identities[%d]", i), "%v", err))
		} else if of := PatternDomain(pattern); of != f.TrustDomain {
			errs = append(errs, fieldErrorf(fmt.Sprintf("identities[%d]", i), "%q is not of trust domain %q", pattern, f.TrustDomain))
		}
	}
	if len(f.Identities) > 0 && len(f.CIDRs) == 0 {
		errs = append(errs, fieldErrorf("identities", "say who may answer in cidrs, and there are none; whom to let in is said by rules"))
	}
	return errs
}

func (f Federation) validateCIDRs(taken map[netip.Prefix]string) (errs []FieldError) {
	for i, p := range f.CIDRs {
		field := fmt.Sprintf("cidrs[%d]", i)
		if err := netset.ValidatePrefix(p); err != nil { // it would match nothing, and leave plaintext
			errs = append(errs, fieldErrorf(field, "%v", err))
		}
		for other, whose := range taken {
			if p.Overlaps(other) {
				errs = append(errs, fieldErrorf(field, "%s overlaps with %s of %s; an address belongs to one trust domain", p, other, whose))
			}
		}
		if netset.Prefixes(f.CIDRs[:i]).Overlaps(p) {
			errs = append(errs, fieldErrorf(field, "%s overlaps with another of the list; write the wider one", p))
		}
	}
	slices.SortFunc(errs, func(a, b FieldError) int { return strings.Compare(a.Error(), b.Error()) }) // taken is a map
	return errs
}

// PatternDomain is the trust domain of a pattern that ValidateIDPattern accepts.
func PatternDomain(pattern string) string {
	td, _, _ := strings.Cut(strings.TrimPrefix(pattern, "spiffe://"), "/")
	return td
}

// ValidateRulePattern checks a pattern of a rule: it is of our trust domain, or of one that is federated. A rule for
// anybody else lets nobody in, which nobody writes on purpose.
func ValidateRulePattern(pattern, own string, federation []Federation) error {
	if err := ValidateIDPattern(pattern); err != nil {
		return err
	}
	td := PatternDomain(pattern)
	if td != own && !slices.ContainsFunc(federation, func(f Federation) bool { return f.TrustDomain == td }) {
		return fmt.Errorf("pattern %q: trust domain %q is neither ours, %q, nor federated; add it to spec.federation with its bundle", pattern, td, own)
	}
	return nil
}
