//go:build amd64 || arm64

package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// denied are the system calls that a proxy never makes, including those of its architecture in deniedHere. They answer
// EPERM.
var denied = slices.Concat(deniedHere, []uint32{
	// Other programs and other processes.
	unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE,
	unix.SYS_KCMP, unix.SYS_PIDFD_GETFD,
	// Other file systems, other namespaces, and files without their path.
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_MOUNT_SETATTR, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_OPEN_TREE_ATTR, unix.SYS_FSOPEN, unix.SYS_FSCONFIG,
	unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_SETNS, unix.SYS_UNSHARE, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_MKNODAT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT,
	// Another user, other capabilities.
	unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID, unix.SYS_SETFSUID,
	unix.SYS_SETFSGID, unix.SYS_SETGROUPS, unix.SYS_CAPSET, unix.SYS_PERSONALITY,
	// Large parts of the kernel, and those in which holes are found most often.
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	// The machine.
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_REBOOT,
	unix.SYS_SYSLOG, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
})

// deniedToListen is denied as well, unless the process listens for Services: else the proxy's ports are bound before it
// is confined, and a second door is what an intruder would open.
const deniedToListen = unix.SYS_LISTEN

// Where seccomp_data (linux/seccomp.h) has its fields. Both architectures are little-endian, so an argument begins with
// its lower half; the upper halves of those looked at here mean nothing to the kernel.
const (
	offsetNumber   = 0
	offsetArch     = 4
	offsetArgument = 16 // of the first; 8 bytes each
)

const x32 = 0x40000000 // __X32_SYSCALL_BIT: calls of amd64's third ABI, under other numbers

// The answers of the filter.
var (
	allow = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	deny  = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	lack  = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
	kill  = bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
)

// filter is the program that decides about every system call. What it does not name is allowed: the runtime's own
// profile, RuntimeDefault, is below it. From Linux 5.11 on, calls that it allows for all arguments cost nothing: the
// kernel keeps them in a bitmap.
func filter(listens bool) []bpf.Instruction {
	program := []bpf.Instruction{
		load(offsetArch),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		kill,
		load(offsetNumber),
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32, SkipTrue: 1},
		lack,
	}
	for _, number := range denied {
		program = append(program, on(number, deny)...)
	}
	if !listens {
		program = append(program, on(deniedToListen, deny)...)
	}
	// The flags of clone3 are in memory, where no filter can see them. The C library, which race-detecting builds have,
	// falls back to clone.
	program = append(program, on(unix.SYS_CLONE3, lack)...)
	program = append(program, on(unix.SYS_CLONE,
		load(offsetArgument), // flags: threads are for the Go runtime, processes for nobody
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.CLONE_THREAD, SkipTrue: 1},
		deny,
		allow)...)
	program = append(program, on(unix.SYS_SOCKET,
		load(offsetArgument), // family
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET, SkipTrue: 6},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET6, SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_UNIX, SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_NETLINK, SkipTrue: 2},
		load(offsetArgument+2*8), // protocol: the addresses of interfaces come by NETLINK_ROUTE
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.NETLINK_ROUTE, SkipTrue: 1},
		deny,
		allow)...)
	// it makes the sockets of any family, too, before it finds that they make no pair
	program = append(program, on(unix.SYS_SOCKETPAIR,
		load(offsetArgument),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_UNIX, SkipTrue: 1},
		deny,
		allow)...)
	return append(program, allow)
}

func load(offset uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: offset, Size: 4} }

// on runs then, which ends with a verdict, for one system call.
func on(number uint32, then ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: number, SkipTrue: uint8(len(then))}}, then...)
}

// restrictCalls loads the filter into every thread. no_new_privs goes with it: without it an unprivileged process may
// not load one.
func restrictCalls(listens bool) error {
	raw, err := bpf.Assemble(filter(listens))
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the next two calls concern one thread, and the second takes the first along to the others
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	// SPEC_ALLOW: kernels before 5.16 make filtered processes slower, against programs that run foreign code inside
	// themselves. This one does not.
	err = loadFilter(raw, unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW)
	if errors.Is(err, unix.EINVAL) { // before 4.17
		err = loadFilter(raw, unix.SECCOMP_FILTER_FLAG_TSYNC)
	}
	return err
}

// loadFilter calls seccomp(2), which with TSYNC returns the ID of a thread that cannot follow.
func loadFilter(raw []bpf.RawInstruction, flags uintptr) error {
	// A RawInstruction has the shape of a sock_filter: uint16, uint8, uint8, uint32.
	program := unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	switch {
	case errno != 0:
		return fmt.Errorf("the filter is refused: %w", errno)
	case thread != 0:
		return fmt.Errorf("thread %d has a filter of its own", thread)
	}
	return nil
}
