package netset

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
)

// MaxUID is the greatest user that Kubernetes lets a container run as.
const MaxUID = 1<<31 - 1

// UIDs is a set of users by number, written "1001,1002". ParseUIDs and Union keep it sorted.
type UIDs []int64

// ParseUIDs reads "1001,1002"; the empty string is the empty set. What is no user but root is an error that quotes it.
func ParseUIDs(s string) (UIDs, error) {
	uids, err := parseList(s, func(part string) (int64, error) {
		uid, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return 0, fmt.Errorf("%q is not a user id (1 to %d)", part, MaxUID)
		}
		return int64(uid), UIDs{int64(uid)}.Validate(-1)
	})
	return UIDs(uids).Union(), err
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

// Union is the set of the users that are in any of the sets.
func (u UIDs) Union(others ...UIDs) UIDs { return union(u, others, cmp.Compare) }

// String is the text that ParseUIDs reads.
func (u UIDs) String() string {
	return joinList(u, func(uid int64) string { return strconv.FormatInt(uid, 10) })
}

// MarshalText writes the set as String does.
func (u UIDs) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads what ParseUIDs reads.
func (u *UIDs) UnmarshalText(text []byte) (err error) {
	*u, err = ParseUIDs(string(text))
	return err
}
