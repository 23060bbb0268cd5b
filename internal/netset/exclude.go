package netset

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/meshless-dev/meshless/internal/api"
)

// MaxUID is the greatest user that Kubernetes lets a container run as.
const MaxUID = 1<<31 - 1

// maxInterfaceName is the longest name of an interface, in bytes (IFNAMSIZ of Linux, without the final zero).
const maxInterfaceName = 15

// Interfaces is a set of network interfaces by name, written "docker0,net1". ParseInterfaces and UnionInterfaces keep
// it sorted, so that two equal sets have one spelling.
type Interfaces []string

// ParseInterfaces reads "docker0,net1"; the empty string is the empty set. What no interface is called, and those that
// Validate refuses, are errors that quote the name.
func ParseInterfaces(s string) (Interfaces, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var names Interfaces
	for name := range strings.SplitSeq(s, ",") {
		names = append(names, strings.TrimSpace(name))
	}
	if err := names.Validate(); err != nil {
		return nil, err
	}
	return UnionInterfaces(names), nil
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

// String is the text that ParseInterfaces reads.
func (i Interfaces) String() string { return strings.Join(i, ",") }

// MarshalText writes the set as String does.
func (i Interfaces) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads what ParseInterfaces reads.
func (i *Interfaces) UnmarshalText(text []byte) (err error) {
	*i, err = ParseInterfaces(string(text))
	return err
}

// UnionInterfaces is the set of the interfaces that are in any of the sets.
func UnionInterfaces(sets ...Interfaces) Interfaces {
	all := slices.Concat(sets...)
	slices.Sort(all)
	return slices.Compact(all)
}

// UIDs is a set of users by number, written "1001,1002". ParseUIDs and UnionUIDs keep it sorted.
type UIDs []int64

// ParseUIDs reads "1001,1002"; the empty string is the empty set. What is no user but root is an error that quotes it.
func ParseUIDs(s string) (UIDs, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var uids UIDs
	for part := range strings.SplitSeq(s, ",") {
		uid, err := strconv.ParseUint(strings.TrimSpace(part), 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%q is not a user id (1 to %d)", part, MaxUID)
		}
		uids = append(uids, int64(uid))
	}
	if err := uids.Validate(-1); err != nil {
		return nil, err
	}
	return UnionUIDs(uids), nil
}

// Validate refuses numbers that are none of a user, root, whose processes are too many to let out by number, and the
// proxy's user, whose processes are let out already.
func (u UIDs) Validate(proxy int64) error {
	for _, uid := range u {
		switch {
		case uid == 0:
			return errors.New("0 is root: every process that runs as root would bypass the proxy; run the one that must as a user of its own")
		case uid < 0 || uid > MaxUID:
			return fmt.Errorf("\"%d\" is not a user id (1 to %d)", uid, MaxUID)
		case uid == proxy:
			return fmt.Errorf("%d is the proxy's user, which nobody else may be", uid)
		}
	}
	return nil
}

// String is the text that ParseUIDs reads.
func (u UIDs) String() string {
	parts := make([]string, len(u))
	for i, uid := range u {
		parts[i] = strconv.FormatInt(uid, 10)
	}
	return strings.Join(parts, ",")
}

// MarshalText writes the set as String does.
func (u UIDs) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads what ParseUIDs reads.
func (u *UIDs) UnmarshalText(text []byte) (err error) {
	*u, err = ParseUIDs(string(text))
	return err
}

// UnionUIDs is the set of the users that are in any of the sets.
func UnionUIDs(sets ...UIDs) UIDs {
	all := slices.Concat(sets...)
	slices.Sort(all)
	return slices.Compact(all)
}
