// Package netset holds the sets in which exclusions are said: TCP ports, networks, interfaces and users. Each has one
// text form and one strict parser; two equal sets have one spelling.
package netset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// PortRange is an inclusive range of TCP ports.
type PortRange struct{ First, Last uint16 }

// Ports is a set of TCP ports, written "80,9000-9010". ParsePorts and MarshalText keep it sorted and merged, so that
// two equal sets have one spelling.
type Ports []PortRange

// ParsePorts reads "80,9000-9010"; the empty string is the empty set. Port 0, a reversed range and anything that is not
// a number are errors that quote the part at fault.
func ParsePorts(s string) (Ports, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var ports Ports
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		from, err := parsePort(first)
		to := from
		if err == nil && isRange {
			to, err = parsePort(last)
		}
		if err != nil || to < from {
			return nil, fmt.Errorf("%q is not a port (1 to 65535) or a range like 9000-9010", part)
		}
		ports = append(ports, PortRange{from, to})
	}
	return ports.merged(), nil
}

// PortsOf is the set of the given ports.
func PortsOf(numbers ...int) Ports {
	var ports Ports
	for _, n := range numbers {
		ports = append(ports, PortRange{uint16(n), uint16(n)})
	}
	return ports.merged()
}

// Contains tells whether port is in the set.
func (p Ports) Contains(port uint16) bool {
	return slices.ContainsFunc(p, func(r PortRange) bool { return r.First <= port && port <= r.Last })
}

// String is the text that ParsePorts reads.
func (p Ports) String() string {
	parts := make([]string, len(p))
	for i, r := range p {
		parts[i] = strconv.Itoa(int(r.First))
		if r.Last != r.First {
			parts[i] += "-" + strconv.Itoa(int(r.Last))
		}
	}
	return strings.Join(parts, ",")
}

// MarshalText writes the set as String does.
func (p Ports) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what ParsePorts reads.
func (p *Ports) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePorts(string(text))
	return err
}

// merged sorts the ranges and joins those that touch.
func (p Ports) merged() Ports {
	slices.SortFunc(p, func(a, b PortRange) int { return int(a.First) - int(b.First) })
	var out Ports
	for _, r := range p {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return uint16(n), err
}

// UnionPorts is the set of the ports that are in any of the sets.
func UnionPorts(sets ...Ports) Ports { return Ports(slices.Concat(sets...)).merged() }

// IntersectPorts is the set of the ports that are in both sets.
func IntersectPorts(a, b Ports) Ports {
	var out Ports
	for _, x := range a {
		for _, y := range b {
			if first, last := max(x.First, y.First), min(x.Last, y.Last); first <= last {
				out = append(out, PortRange{first, last})
			}
		}
	}
	return out.merged()
}
