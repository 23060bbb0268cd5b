// Package sandbox takes from the proxy's process what a proxy never needs, beyond what the pod's securityContext takes:
// Landlock leaves it its own files to read, seccomp the system calls of a network program, and its memory is closed to
// others. All of it holds for every thread and until the end of the process, and no later code can undo them. The
// package also tells Go's garbage collector the container's memory limit.
package sandbox

import (
	"log/slog"
	"strings"
)

// Report is what confines the process.
type Report struct {
	Landlock int      // ABI version of the kernel's Landlock, if rules are in force; 0 is none
	Seccomp  bool     // the filter of system calls is in force
	Listens  bool     // the process may still bind ports, and listen on them
	Missing  []string // what this kernel or container runtime does not allow, and why
}

// Enter confines the process; directory is the mount that holds the proxy's files. Call it once, when every listener is
// bound and before anything of a peer or of the directory is read: nobody can listen after it. It never fails. The
// report, which is also one line of the log, says what is not available here.
func Enter(directory string, log *slog.Logger) Report { return logged(enter(directory, false), log) }

// EnterListening is Enter for a proxy without redirect rules, which listens for Services as the app asks DNS for them:
// to bind ports and to listen on them stays allowed, and nothing else.
func EnterListening(directory string, log *slog.Logger) Report {
	return logged(enter(directory, true), log)
}

func logged(r Report, log *slog.Logger) Report {
	attrs := []any{"landlock_abi", r.Landlock, "seccomp", r.Seccomp}
	if r.Listens {
		attrs = append(attrs, "listens", true)
	}
	if len(r.Missing) > 0 {
		log.Warn("confined in part", append(attrs, "missing", strings.Join(r.Missing, "; "))...)
	} else {
		log.Info("confined", attrs...)
	}
	return r
}
