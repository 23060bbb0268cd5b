//go:build amd64 || arm64

package sandbox

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// call is a system call as the filter sees it.
type call struct {
	number, arch uint32
	args         [6]uint32 // lower halves
}

// evaluate runs the filter. The machine of package bpf reads packets, which are big-endian, so every word is written
// so.
func evaluate(t *testing.T, vm *bpf.VM, c call) uint32 {
	t.Helper()
	data := make([]byte, 64) // seccomp_data
	binary.BigEndian.PutUint32(data[offsetNumber:], c.number)
	binary.BigEndian.PutUint32(data[offsetArch:], c.arch)
	for i, arg := range c.args {
		binary.BigEndian.PutUint32(data[offsetArgument+8*i:], arg)
	}
	verdict, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(verdict)
}

func TestFilter(t *testing.T) {
	vm, err := bpf.NewVM(filter(false))
	if err != nil {
		t.Fatal(err)
	}
	names := map[uint32]string{allow.Val: "allow", deny.Val: "deny", lack.Val: "lack", kill.Val: "kill"}
	want := func(answer bpf.RetConstant, c call) {
		t.Helper()
		if got := evaluate(t, vm, c); got != answer.Val {
			t.Errorf("%+v: %s (%#x), want %s", c, names[got], got, names[answer.Val])
		}
	}
	for _, number := range append(slices.Clone(denied), unix.SYS_LISTEN) {
		want(deny, call{number: number, arch: auditArch})
	}
	for _, number := range []uint32{
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_SPLICE, unix.SYS_PIPE2, unix.SYS_ACCEPT4, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_GETSOCKOPT,
		unix.SYS_SETSOCKOPT, unix.SYS_SHUTDOWN, unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_OPENAT, unix.SYS_CLOSE,
		unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CTL, unix.SYS_EVENTFD2, unix.SYS_FUTEX, unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE,
		unix.SYS_TGKILL, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_SETITIMER, unix.SYS_TIMER_CREATE, unix.SYS_GETRANDOM,
		unix.SYS_NANOSLEEP, unix.SYS_SCHED_YIELD, unix.SYS_INOTIFY_ADD_WATCH, unix.SYS_GETDENTS64, unix.SYS_PRLIMIT64, unix.SYS_EXIT_GROUP, 100_000,
	} {
		want(allow, call{number: number, arch: auditArch})
	}
	// runtime/os_linux.go
	const golang = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD
	clone := func(flags uint32) call { return call{unix.SYS_CLONE, auditArch, [6]uint32{flags}} }
	want(allow, clone(golang))
	want(deny, clone(golang&^unix.CLONE_THREAD))
	want(deny, clone(uint32(unix.SIGCHLD)))
	want(deny, clone(unix.CLONE_NEWUSER|unix.CLONE_NEWNET))
	want(lack, call{number: unix.SYS_CLONE3, arch: auditArch})

	for family := range uint32(64) {
		for protocol := range uint32(32) {
			answer := deny
			switch family {
			case unix.AF_INET, unix.AF_INET6, unix.AF_UNIX:
				answer = allow
			case unix.AF_NETLINK:
				if protocol == unix.NETLINK_ROUTE {
					answer = allow
				}
			}
			want(answer, call{unix.SYS_SOCKET, auditArch, [6]uint32{family, unix.SOCK_STREAM | unix.SOCK_CLOEXEC, protocol}})
		}
	}
	want(kill, call{number: unix.SYS_READ, arch: unix.AUDIT_ARCH_I386})
	want(kill, call{number: unix.SYS_EXECVE, arch: unix.AUDIT_ARCH_ARM})
	want(lack, call{number: x32 | unix.SYS_READ, arch: auditArch})
	want(lack, call{number: 1<<32 - 1, arch: auditArch})
}

// TestFilterListening: who listens for Services may call listen, and nothing else that others may not.
func TestFilterListening(t *testing.T) {
	vm, err := bpf.NewVM(filter(true))
	if err != nil {
		t.Fatal(err)
	}
	if got := evaluate(t, vm, call{number: unix.SYS_LISTEN, arch: auditArch}); got != allow.Val {
		t.Errorf("listen: %#x", got)
	}
	for _, number := range denied {
		if got := evaluate(t, vm, call{number: number, arch: auditArch}); got != deny.Val {
			t.Errorf("%d: %#x", number, got)
		}
	}
}

// TestFilterFits: the kernel takes 4,096 instructions.
func TestFilterFits(t *testing.T) {
	raw, err := bpf.Assemble(filter(false))
	if err != nil || len(raw) == 0 || len(raw) > 4096 {
		t.Errorf("%d instructions, %v", len(raw), err)
	}
}
