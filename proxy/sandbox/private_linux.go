package sandbox

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// keepPrivate closes the process's memory, with the keys in it, to other processes of the same user, which /proc and
// ptrace(2) open otherwise: with shareProcessNamespace any container of the pod may have one. There are no core dumps
// either. CAP_SYS_PTRACE is beyond it.
func keepPrivate() error {
	return errors.Join(
		os.NewSyscallError("prctl PR_SET_DUMPABLE", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)),
		os.NewSyscallError("setrlimit RLIMIT_CORE", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})))
}
