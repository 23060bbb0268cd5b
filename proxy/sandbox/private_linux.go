package sandbox

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// keepPrivate closes the process's memory, with the keys in it, to other processes of the same user, which /proc and
// ptrace(2) open otherwise: with shareProcessNamespace any container of the pod may have one. There are no core dumps
// either. CAP_SYS_PTRACE is beyond it.
func keepPrivate() error {
	return errors.Join(
		wrap("not dumpable", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)),
		wrap("no core dumps", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})))
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
