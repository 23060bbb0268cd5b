package sandbox

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// deniedHere are calls that newer architectures do not have.
var deniedHere = []uint32{
	unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_MKNOD, unix.SYS_USELIB, unix.SYS_CREATE_MODULE, unix.SYS_MODIFY_LDT, unix.SYS_IOPL, unix.SYS_IOPERM,
}
