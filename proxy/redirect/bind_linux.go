package redirect

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// bindLocal lets IPv6 bind an address that is local by a route, and of no interface. IPv4 needs nothing for that.
func bindLocal(network, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		if network == "tcp6" {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1) // where it is refused, so is the bind
		}
	})
}

// bindAddress binds the address alone, and lets the kernel choose the port at connect.
func bindAddress(network, address string, c syscall.RawConn) error {
	if err := c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) }); err != nil {
		return err
	}
	return bindLocal(network, address, c)
}
