package main

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// blockSize is what one system call of a bulk transfer moves at most.
const blockSize = 1 << 20

// block is where received bytes would go; with MSG_TRUNC the kernel drops them instead of copying them.
var block [blockSize]byte

// sockaddr is the form in which x/sys takes an address.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// connectTo begins a connection that does not block. A source other than the zero address lets one target take more
// connections than there are ports.
func connectTo(target netip.AddrPort, source netip.Addr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err == nil && source.IsValid() {
		if err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err == nil {
			err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(source, 0)))
		}
	}
	if err == nil {
		if err = unix.Connect(fd, sockaddr(target)); err == unix.EINPROGRESS {
			err = nil
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", target, err)
	}
	return fd, nil
}

// watch adds or changes the events of fd; token comes back with them.
func watch(ep, op, fd int, events uint32) error {
	return unix.EpollCtl(ep, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// memory is a file of one block in memory, to be sent without copying it.
func memory() (int, error) {
	fd, err := unix.MemfdCreate("block", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("memfd: %w", err)
	}
	b := make([]byte, blockSize)
	for i := range b {
		b[i] = byte(i * 167 >> 3)
	}
	if _, err := unix.Pwrite(fd, b, 0); err != nil {
		return -1, fmt.Errorf("memfd: %w", err)
	}
	return fd, nil
}

// pour sends what the socket takes of one block of from, without copying; again is true when it takes nothing now.
func pour(fd, from int) (n int, again bool, err error) {
	var offset int64
	n, err = unix.Sendfile(fd, from, &offset, blockSize)
	if err == unix.EAGAIN {
		return 0, true, nil
	}
	return max(n, 0), false, err
}

// drain drops what has arrived, up to one block, without copying it; end is true at the end of the stream.
func drain(fd int) (n int, end bool, err error) {
	got, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&block[0])), blockSize, unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
	switch {
	case errno == unix.EAGAIN:
		return 0, false, nil
	case errno != 0:
		return 0, false, errno
	}
	return int(got), got == 0, nil
}

// receive reads into b without blocking; n is -1 when nothing is there.
func receive(fd int, b []byte) (n int, err error) {
	got, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	switch {
	case errno == unix.EAGAIN:
		return -1, nil
	case errno != 0:
		return 0, errno
	}
	return int(got), nil
}

// send writes b without blocking and without SIGPIPE; n is 0 when nothing is taken now.
func send(fd int, b []byte) (n int, err error) {
	got, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	switch {
	case errno == unix.EAGAIN:
		return 0, nil
	case errno != 0:
		return 0, errno
	}
	return int(got), nil
}
