package netset

import (
	"errors"
	"fmt"
	"strings"

	"github.com/meshless-dev/meshless/internal/api"
)

// maxInterfaceName is the longest name of an interface, in bytes (IFNAMSIZ of Linux, without the final zero).
const maxInterfaceName = 15

// Interfaces is a set of network interfaces by name, written "docker0,net1". ParseInterfaces and Union keep it
// sorted, so that two equal sets have one spelling.
type Interfaces []string

// ParseInterfaces reads "docker0,net1"; the empty string is the empty set. What no interface is called, and those that
// Validate refuses, are errors that quote the name.
func ParseInterfaces(s string) (Interfaces, error) {
	names, err := parseList(s, func(name string) (string, error) { return name, Interfaces{name}.Validate() })
	return Interfaces(names).Union(), err
}

// Validate refuses what is no name of one interface. Linux allows more (dev_valid_name), but to nftables and iptables
// some of it is a wildcard, a negation or a quote. It refuses the two that make no sense, too: what passes lo is the
// pod itself, and without eth0, by which every container runtime joins a pod to the cluster, nothing is left.
func (i Interfaces) Validate() error {
	for _, name := range i {
		switch {
		case !validInterface(name):
			return fmt.Errorf("%q is not the name of an interface: 1 to %d letters, digits, '.', '_' and '-', and no wildcard", name, maxInterfaceName)
		case name == "lo":
			return errors.New("lo is the pod itself, and what passes there is no peer's; take it out")
		case name == "eth0":
			return fmt.Errorf("eth0 joins the pod to the cluster, and without it nothing is left to protect; leave the workload out of the mesh with %s: disabled", api.InjectAnnotation)
		}
	}
	return nil
}

func validInterface(name string) bool {
	if len(name) == 0 || len(name) > maxInterfaceName || name == "." || name == ".." || name[0] == '-' {
		return false
	}
	for _, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// Union is the set of the interfaces that are in any of the sets.
func (i Interfaces) Union(others ...Interfaces) Interfaces { return union(i, others, strings.Compare) }

// String is the text that ParseInterfaces reads.
func (i Interfaces) String() string { return strings.Join(i, ",") }

// MarshalText writes the set as String does.
func (i Interfaces) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads what ParseInterfaces reads.
func (i *Interfaces) UnmarshalText(text []byte) (err error) {
	*i, err = ParseInterfaces(string(text))
	return err
}
