// Package clientaddr holds the addresses that an app sees in place of its clients'. Each pod has a range of them, which
// meshless-init makes local to the pod, and from which the proxy dials the app: one address for each client. No address
// is of 127.0.0.0/8 or ::1, since apps open doors to loopback addresses. The package is pure: init chooses a range with
// it, and the proxy finds the same one by trying.
package clientaddr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/internal/netset"
)

// Ranges are the networks of the addresses, one of each IP family. The text form is "198.18.0.0/15,fd00::/64". A family
// that is not set is one for which nothing is said.
type Ranges struct{ V4, V6 netip.Prefix }

// Default are the ranges of a pod in which nothing speaks against them. The IPv4 one is for tests of network equipment
// (RFC 2544), so few networks have it. The IPv6 one is a local network (RFC 4193) whose number is "meshl" in ASCII.
var Default = Ranges{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("fd6d:6573:686c::/64")}

// Sizes of a range. A smaller IPv4 one has too few addresses, a larger one takes too many away from others.
const (
	minBits4, maxBits4 = 8, 24
	bits6              = 64
)

// candidates4 are tried in order. Behind the default stand a part of the reserved class E and a network for examples
// (RFC 5737).
var candidates4 = []netip.Prefix{Default.V4, netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("192.0.2.0/24")}

// Candidates are the IPv4 networks that a pod may have, the preferred one first: that of r alone where it has one.
func (r Ranges) Candidates() []netip.Prefix {
	if r.V4.IsValid() {
		return []netip.Prefix{r.V4}
	}
	return slices.Clone(candidates4)
}

// WithDefaults fills a family that is not set with the default.
func (r Ranges) WithDefaults() Ranges {
	if !r.V4.IsValid() {
		r.V4 = Default.V4
	}
	if !r.V6.IsValid() {
		r.V6 = Default.V6
	}
	return r
}

// Choose completes what the configuration says: the IPv4 range is the first candidate that overlaps no network of
// taken, which are those that a pod can see: its own addresses, its routes, its name servers, the Kubernetes API. It is
// an error if none is left, and if a range of the configuration is taken: the pod could not reach what is there. Short
// networks say nothing: they are those of routes to everything else, such as 0.0.0.0/1, or to all local networks, such
// as fc00::/7.
func Choose(configured Ranges, taken []netip.Prefix) (Ranges, error) {
	if err := configured.Validate(); err != nil {
		return Ranges{}, err
	}
	const wayOut = "name a network that nothing in the cluster has in spec.inbound.clientCIDRs"
	chosen := configured.WithDefaults()
	if at := overlapping(chosen.V6, taken); at.IsValid() {
		return Ranges{}, fmt.Errorf("client addresses: %s is in use here, as %s is in it: %s", chosen.V6, at, wayOut)
	}
	var refused []string
	for _, candidate := range configured.Candidates() {
		at := overlapping(candidate, taken)
		if !at.IsValid() {
			chosen.V4 = candidate
			return chosen, nil
		}
		refused = append(refused, fmt.Sprintf("%s (there is %s)", candidate, at))
	}
	return Ranges{}, fmt.Errorf("client addresses: in use here is %s: %s", strings.Join(refused, ", "), wayOut)
}

// Networks shorter than this are no sign that a range is in use.
const minTaken4, minTaken6 = 4, 48

func overlapping(p netip.Prefix, taken []netip.Prefix) netip.Prefix {
	for _, t := range taken {
		if p.Overlaps(t) && (t.Bits() >= minTaken6 || t.Addr().Is4() && t.Bits() >= minTaken4) {
			return t
		}
	}
	return netip.Prefix{}
}

// Validate refuses networks of another size or kind than a range has.
func (r Ranges) Validate() error {
	if p := r.V4; p.IsValid() {
		switch {
		case !p.Addr().Is4() || p != p.Masked():
			return fmt.Errorf("%s is not an IPv4 network like %s", p, Default.V4)
		case p.Bits() < minBits4 || p.Bits() > maxBits4:
			return fmt.Errorf("%s: a range of client addresses has /%d to /%d", p, minBits4, maxBits4)
		case isSpecial(p):
			return fmt.Errorf("%s holds addresses that no client may have: loopback, multicast, link-local or 0.0.0.0/8", p)
		}
	}
	if p := r.V6; p.IsValid() {
		switch {
		case p.Addr().Is4() || p.Addr().Is4In6() || p != p.Masked():
			return fmt.Errorf("%s is not an IPv6 network like %s", p, Default.V6)
		case p.Bits() != bits6:
			return fmt.Errorf("%s: a range of IPv6 client addresses has /%d", p, bits6)
		case isSpecial(p):
			return fmt.Errorf("%s holds addresses that no client may have: loopback, multicast, link-local or IPv4 in IPv6 form", p)
		}
	}
	return nil
}

// Networks in which apps, kernels or nodes see more than a client.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("255.255.255.0/24"), netip.MustParsePrefix("::/64"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

func isSpecial(p netip.Prefix) bool { return slices.ContainsFunc(special, p.Overlaps) }

// Parse reads "198.18.0.0/15,fd00::/64", in either order; either may be missing. What is no range, and a second one of
// a family, is an error.
func Parse(s string) (r Ranges, err error) {
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			return Ranges{}, fmt.Errorf("%q is not a network like %s", part, Default.V4)
		}
		of := &r.V4
		if p.Addr().Is6() {
			of = &r.V6
		}
		if of.IsValid() {
			return Ranges{}, errors.New("wants one network of each IP family at most")
		}
		*of = p
	}
	return r, r.Validate()
}

// FromPrefixes are the ranges of a list of networks, as Parse reads them.
func FromPrefixes(list []netip.Prefix) (Ranges, error) { return Parse(netset.Prefixes(list).String()) }

// String is the text that Parse reads.
func (r Ranges) String() string {
	var parts []string
	for _, p := range []netip.Prefix{r.V4, r.V6} {
		if p.IsValid() {
			parts = append(parts, p.String())
		}
	}
	return strings.Join(parts, ",")
}

// MarshalText writes the ranges as String does.
func (r Ranges) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what Parse reads.
func (r *Ranges) UnmarshalText(text []byte) (err error) {
	*r, err = Parse(string(text))
	return err
}

// Equal tells whether both are the same networks.
func (r Ranges) Equal(other Ranges) bool { return r == other }

// Of is the range of the family of an address; the zero Prefix where it is not set.
func (r Ranges) Of(family netip.Addr) netip.Prefix {
	if family.Unmap().Is4() {
		return r.V4
	}
	return r.V6
}

// reserved is how many addresses at the beginning of a range are no client's: Canary, and Probe.
const reserved = 2

// Probe is the address from which the proxy dials an app at dst for itself: for probes and lifecycle handlers. It is
// the first address of the range and no client's. The zero Addr leaves the choice to the system.
func (r Ranges) Probe(dst netip.Addr) netip.Addr {
	p := r.Of(dst)
	if !p.IsValid() {
		return netip.Addr{}
	}
	return p.Addr().Next()
}

// Canary is the address of a range between which and itself the proxy makes the connections that prove the rules of
// init. It is that of the network itself, and no client's.
func Canary(p netip.Prefix) netip.Addr { return p.Addr() }

// Preferred is the address in a range for a client. In an IPv4 range it ends as the client's does: 10.244.1.7 becomes
// 198.18.1.7. In an IPv6 range an IPv4 client's address is the end, and of an IPv6 client the last 32 bits are, behind
// a digest of the others. It is one that a client may have; other clients may prefer the same.
func Preferred(p netip.Prefix, client netip.Addr) netip.Addr {
	client = client.Unmap().WithZone("")
	var host uint64
	switch b := client.As16(); {
	case client.Is4():
		host = uint64(binary.BigEndian.Uint32(b[12:]))
	default:
		digest := fnv.New32a()
		_, _ = digest.Write(b[:12])
		host = uint64(digest.Sum32())<<32 | uint64(binary.BigEndian.Uint32(b[12:]))
	}
	return at(p, host)
}

// Next is the address behind one in a range that a client may have; behind the last one comes the first.
func Next(p netip.Prefix, addr netip.Addr) netip.Addr {
	b := addr.As16()
	return at(p, binary.BigEndian.Uint64(b[8:])+1)
}

// Size is how many clients a range has addresses for.
func Size(p netip.Prefix) uint64 { return last(p) - reserved }

// last is the number of the last address, which in an IPv4 network is that of everybody. It is kept in IPv6, too.
func last(p netip.Prefix) uint64 {
	host := p.Addr().BitLen() - p.Bits()
	return ^uint64(0) >> (64 - host)
}

// at is the address of this number in the range, which counts only its last bits, or the first that a client may have.
func at(p netip.Prefix, number uint64) netip.Addr {
	number &= last(p)
	if number < reserved || number == last(p) {
		number = reserved
	}
	b := p.Addr().As16()
	base := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], base|number)
	addr := netip.AddrFrom16(b)
	if p.Addr().Is4() {
		return addr.Unmap()
	}
	return addr
}
