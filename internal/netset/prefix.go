package netset

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ParsePrefixes reads "10.1.0.0/16,fd00::/8" in its order, and each network once. What is no network, and what
// ValidatePrefix refuses, is an error that quotes it.
func ParsePrefixes(s string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
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

// UnionPrefixes are the networks that are in any of the lists, each once, sorted: two equal sets have one spelling.
func UnionPrefixes(lists ...[]netip.Prefix) []netip.Prefix {
	all := slices.Concat(lists...)
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// JoinPrefixes is the text that ParsePrefixes reads.
func JoinPrefixes(prefixes []netip.Prefix) string {
	parts := make([]string, len(prefixes))
	for i, p := range prefixes {
		parts[i] = p.String()
	}
	return strings.Join(parts, ",")
}
