package listen

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
)

// leaving marks a socket as one with which the proxy leaves the pod, for the rules of init. Without the mark those
// still refuse what would pass them by.
func leaving(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, api.ProxyPriority)
	})
}

// bindForeign is for an address that is not the pod's.
func bindForeign(network, address string, c syscall.RawConn) error {
	if err := leaving(network, address, c); err != nil {
		return err
	}
	return bindClient(network, address, c)
}

// bindClient lets the kernel choose the port at connect, by the whole 4-tuple. Without it every connection to the app
// would take one of 28,000 ports for the time of TIME_WAIT, and a busy app would run out of them. A kernel that refuses
// only loses that. And it lets IPv6 bind an address that is local by a route, and of no interface; IPv4 needs nothing
// for that. Where it is refused, so is the bind.
func bindClient(network, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if network == "tcp6" {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		}
	})
}
