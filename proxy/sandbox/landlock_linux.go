package sandbox

import (
	"errors"
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// systemFiles are read in addition to the proxy's directory. Each may be missing. Name resolution of
// package net reads those in /etc again and again. The metrics of the process are in its own folder of /proc and, for
// the time of its start, in /proc/stat.
var systemFiles = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/proc/stat"}

const ownProc = "/proc/self"

const (
	readFile landlock.AccessFSSet = ll.AccessFSReadFile
	readAll  landlock.AccessFSSet = ll.AccessFSReadFile | ll.AccessFSReadDir
)

const signalErratum = 1 << 1 // LANDLOCK_CREATE_RULESET_ERRATA, erratum 2: threads of one process may signal each other

// restrictFiles allows reading in directory and of the system's files, and no other access to files: no writing, no
// executing. It returns the ABI version in force. Older versions know fewer kinds of access; what they know is
// restricted. Who listens may bind any port, others none.
func restrictFiles(directory string, listens bool) (abi int, err error) {
	abi, err = ll.LandlockGetABIVersion()
	if err != nil {
		return 0, explainLandlock(err)
	}
	// A path that does not exist cannot be allowed. The kubelet makes the mount before it starts the container, so
	// outside a pod alone it can be missing.
	if err := pin(directory); err != nil {
		return 0, fmt.Errorf("directory %s is to be the one that can be read: %w", directory, err)
	}
	if err := pin(ownProc); err != nil {
		return 0, fmt.Errorf("%s: %w: is /proc mounted?", ownProc, err)
	}
	rules := []landlock.Rule{landlock.PathAccess(readAll, directory, ownProc)}
	for _, file := range systemFiles {
		if pin(file) == nil {
			rules = append(rules, landlock.PathAccess(readFile, file))
		}
	}
	// Every port of ours is bound already. Port 0 stays: the proxy dials the app from an address of its choice, with a
	// port of the kernel's. To which port it connects is not restricted, and UDP, which Landlock restricts from ABI 10
	// on, carries DNS.
	network := landlock.AccessNetSet(ll.AccessNetBindTCP)
	if listens {
		network = 0
	} else {
		rules = append(rules, landlock.BindTCP(0))
	}
	errata, err := ll.LandlockGetErrata()
	if err != nil {
		errata = 0 // a kernel that cannot tell has corrected none
	}
	c := landlock.Config{HandledAccessFS: landlock.V9.HandledAccessFS, HandledAccessNet: network, Scoped: scopes(errata)}
	if err := c.BestEffort().Restrict(rules...); err != nil {
		return 0, err
	}
	return abi, nil
}

// pin opens path and leaves it open for good. A rule is tied to an inode, and the kernel forgets those of /proc when
// memory is short and nobody holds them: the path would come back as another inode, which no rule allows.
func pin(path string) error {
	_, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	return err
}

// scopes are the kinds of processes outside that cannot be reached, where the kernel knows scopes (ABI 6): those behind
// abstract UNIX sockets, and by signals. Before its second erratum was corrected, Landlock took threads of one process
// for strangers too; Go's runtime preempts its threads by signals.
func scopes(errata int) landlock.ScopedSet {
	if errata&signalErratum == 0 {
		return ll.ScopeAbstractUnixSocket
	}
	return landlock.V9.Scoped
}

func explainLandlock(err error) error {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("this kernel has none (it is in Linux 5.13 and later): %w", err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("it is off (add landlock to the kernel's lsm= parameter): %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("the container runtime's seccomp profile forbids it: %w", err)
	}
	return err
}
