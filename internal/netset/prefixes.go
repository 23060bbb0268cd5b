package netset

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Prefixes is a set of networks, written "10.1.0.0/16,fd00::/8". Union keeps it sorted.
type Prefixes []netip.Prefix

// ParsePrefixes reads "10.1.0.0/16,fd00::/8" in its order, and each network once; nothing between two commas is no
// network. What is no network, and what ValidatePrefix refuses, is an error that quotes it.
func ParsePrefixes(s string) (Prefixes, error) {
	var prefixes Prefixes
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, fmt.Errorf("%q is not a network like 10.1.0.0/16", part)
		}
		if err := ValidatePrefix(p); err != nil {
			return nil, err
		}
		if !slices.Contains(prefixes, p) {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes, nil
}

// Validate refuses what ValidatePrefix refuses.
func (p Prefixes) Validate() error {
	for _, one := range p {
		if err := ValidatePrefix(one); err != nil {
			return err
		}
	}
	return nil
}

// ValidatePrefix refuses a network with host bits set, since it is likely a typing error, and one of IPv4 addresses in
// IPv6 form: no packet carries such an address, and others are compared in their IPv4 form, so it would match nothing.
func ValidatePrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return fmt.Errorf("%q is not a network like 10.1.0.0/16", p)
	case p != p.Masked():
		return fmt.Errorf("%s has host bits set; write %s", p, p.Masked())
	case p.Addr().Is4In6(): // of at least 96 bits: fewer mask what makes it one
		return fmt.Errorf("%s is of IPv4 addresses in IPv6 form; write it as an IPv4 network, %s", p, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96))
	}
	return nil
}

// Contains tells whether the address is in one of the networks.
func (p Prefixes) Contains(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(one netip.Prefix) bool { return one.Contains(addr) })
}

// Overlaps tells whether an address is in the network and in the set.
func (p Prefixes) Overlaps(other netip.Prefix) bool { return slices.ContainsFunc(p, other.Overlaps) }

// Union is the set of the networks that are in any of the sets. A network within another stays.
func (p Prefixes) Union(others ...Prefixes) Prefixes { return union(p, others, netip.Prefix.Compare) }

// String is the text that ParsePrefixes reads.
func (p Prefixes) String() string { return joinList(p, netip.Prefix.String) }

// MarshalText writes the set as String does.
func (p Prefixes) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what ParsePrefixes reads.
func (p *Prefixes) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePrefixes(string(text))
	return err
}
