package netset

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// PortRange is an inclusive range of TCP ports.
type PortRange struct{ First, Last uint16 }

// String is "80" or "9000-9010".
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Ports is a set of TCP ports, written "80,9000-9010". ParsePorts, PortsOf, Union and Intersect keep it sorted and
// merged, so that two equal sets have one spelling.
type Ports []PortRange

// ParsePorts reads "80,9000-9010"; the empty string is the empty set. Port 0, a reversed range and anything that is not
// a number are errors that quote the part at fault.
func ParsePorts(s string) (Ports, error) {
	ranges, err := parseList(s, parseRange)
	return Ports(ranges).merged(), err
}

func parseRange(s string) (PortRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	from, err := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	r := PortRange{uint16(from), uint16(to)}
	if err != nil || err2 != nil || (Ports{r}).Validate() != nil {
		return PortRange{}, fmt.Errorf("%q is not a port (1 to 65535) or a range like 9000-9010", s)
	}
	return r, nil
}

// PortsOf is the set of the given ports.
func PortsOf(numbers ...uint16) Ports {
	var ports Ports
	for _, n := range numbers {
		ports = append(ports, PortRange{n, n})
	}
	return ports.merged()
}

// Validate refuses port 0 and reversed ranges.
func (p Ports) Validate() error {
	for _, r := range p {
		if r.First == 0 || r.Last < r.First {
			return fmt.Errorf("ports %d-%d: not a range of 1 to 65535", r.First, r.Last)
		}
	}
	return nil
}

// Contains tells whether port is in the set.
func (p Ports) Contains(port uint16) bool {
	return slices.ContainsFunc(p, func(r PortRange) bool { return r.First <= port && port <= r.Last })
}

// All are the ports, one by one in order.
func (p Ports) All() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for _, r := range p {
			for port := int(r.First); port <= int(r.Last); port++ {
				if !yield(uint16(port)) {
					return
				}
			}
		}
	}
}

// Union is the set of the ports that are in any of the sets.
func (p Ports) Union(others ...Ports) Ports {
	return slices.Concat(append([]Ports{p}, others...)...).merged()
}

// Intersect is the set of the ports that are in both sets.
func (p Ports) Intersect(other Ports) Ports {
	var out Ports
	for _, x := range p {
		for _, y := range other {
			if first, last := max(x.First, y.First), min(x.Last, y.Last); first <= last {
				out = append(out, PortRange{first, last})
			}
		}
	}
	return out.merged()
}

// Minus is the set of the ports that are in the first set alone.
func (p Ports) Minus(other Ports) Ports {
	out := Ports{}.Union(p)
	for _, hole := range other {
		var left Ports
		for _, r := range out {
			if hole.Last < r.First || r.Last < hole.First {
				left = append(left, r)
				continue
			}
			if r.First < hole.First {
				left = append(left, PortRange{r.First, hole.First - 1})
			}
			if hole.Last < r.Last {
				left = append(left, PortRange{hole.Last + 1, r.Last})
			}
		}
		out = left
	}
	return out
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

// String is the text that ParsePorts reads.
func (p Ports) String() string { return joinList(p, PortRange.String) }

// MarshalText writes the set as String does.
func (p Ports) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what ParsePorts reads.
func (p *Ports) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePorts(string(text))
	return err
}
