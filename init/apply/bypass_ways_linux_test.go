package apply

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func parseAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

func foreignSource(f family) string { // an address that the pod does not have
	if f.domain == unix.AF_INET {
		return "10.55.0.5"
	}
	return "fd55::5"
}

func secondAddress(f family) string {
	if f.domain == unix.AF_INET {
		return secondPod4
	}
	return secondPod6
}

// sourceRoute asks that the packet goes by way of the peer (RFC 791, loose source route). Recent kernels let only
// NET_RAW ask.
func sourceRoute(fd int, f family) error {
	peer := parseAddr(f.peer).As4()
	const noOperation, loose = 1, 131
	return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string([]byte{noOperation, loose, 7, 4, peer[0], peer[1], peer[2], peer[3]}))
}

// segmentRoute asks the same of IPv6 (RFC 8754): the peer first, then the destination, which the kernel fills in.
func segmentRoute(fd int, f family) error {
	if !hasSegmentRouting() {
		return unix.ENOPROTOOPT
	}
	peer := parseAddr(f.peer).As16()
	header := append([]byte{0, 4, 4, 1, 1, 0, 0, 0}, make([]byte, 16)...)
	return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, string(append(header, peer[:]...)))
}

// hasSegmentRouting tells whether the kernel was built with it.
func hasSegmentRouting() bool {
	_, err := os.Stat("/proc/sys/net/ipv6/conf/all/seg6_enabled")
	return err == nil
}

// fastOpen sends data with the SYN (RFC 7413).
func fastOpen(fd int, to unix.Sockaddr) error {
	return unix.Sendto(fd, []byte("early\n"), unix.MSG_FASTOPEN, to)
}

// giveToProxy gives the socket to the proxy's user: the packet filter must look at who opened it, not at who owns it.
func giveToProxy(fd int, _ family) error { return unix.Fchown(fd, proxyUID, proxyUID) }

// becomeProxy makes the thread the proxy's user, and then opens another socket in the place of the first, since the
// user counts who opened it.
func becomeProxy(fd int, f family) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, proxyUID, proxyUID, proxyUID); errno != 0 {
		return errno
	}
	return reopen(fd, f)
}

// borrowProxy does it with the user for files alone, which setfsuid(2) refuses in silence.
func borrowProxy(fd int, f family) error {
	_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, proxyUID, 0, 0)
	if now, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0); now != proxyUID {
		return unix.EPERM
	}
	return reopen(fd, f)
}

func reopen(fd int, f family) error {
	again, err := unix.Socket(f.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Dup3(again, fd, unix.O_CLOEXEC), unix.Close(again))
}

// TestBypassOut: ways out of the pod.
func TestBypassOut(t *testing.T) {
	clientAddress := func(f family) string { return f.source }
	loopback := func(f family) string { return f.loopback }
	own := func(f family) string { return f.pod }
	onLink := func(f family) string { return f.peer }
	forEachWay(t, []way{
		{name: "plain", by: everybody},
		{name: "next hop", by: powerless, host: onLink},
		{name: "not routed", by: powerless, host: onLink, prepare: socketOption(unix.SO_DONTROUTE, 1)},
		{name: "from the pod's address", by: powerless, prepare: bindTo(own)},
		{name: "from another address of the pod", by: powerless, prepare: bindTo(secondAddress)},
		{name: "from a client's address", by: powerless, dead: true, refused: true, prepare: func(fd int, f family) error {
			_ = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			return bindTo(clientAddress)(fd, f)
		}},
		{name: "from loopback", by: powerless, prepare: bindTo(loopback), dead: true},
		{name: "from an address that is not the pod's", by: powerless, prepare: bindTo(foreignSource), denied: []error{unix.EADDRNOTAVAIL}},
		{name: "from such an address, unchecked", by: []who{appUser, bareRoot}, dead: true, silent: true, prepare: func(fd int, f family) error {
			return errors.Join(option(unix.SOL_IP, unix.IP_FREEBIND, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)(fd, f), bindTo(foreignSource)(fd, f))
		}},
		{name: "bound to eth0", by: []who{appUser, bareRoot}, silent: true, prepare: toDevice("eth0")},
		{name: "bound to lo", by: []who{appUser, bareRoot}, dead: true, silent: true, prepare: toDevice("lo")},
		{name: "data with the SYN", by: powerless, dial: fastOpen},
		{name: "multipath TCP", by: powerless, proto: unix.IPPROTO_MPTCP},
		{name: "IPv4 by a socket of IPv6", by: powerless, only: "IPv4", domain: unix.AF_INET6},
		{name: "source route", by: []who{rootLike, appUser, bareRoot}, only: "IPv4", silent: true, prepare: sourceRoute},
		{name: "segment route", by: []who{appUser, bareRoot}, only: "IPv6", silent: true, prepare: segmentRoute},
		{name: "mark", by: powerless, prepare: socketOption(unix.SO_MARK, 1), denied: []error{unix.EPERM}},
		{name: "mark with NET_RAW", by: []who{rootLike}, prepare: socketOption(unix.SO_MARK, 1)},
		{name: "transparent", by: powerless, prepare: option(unix.SOL_IP, unix.IP_TRANSPARENT, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1), denied: []error{unix.EPERM}},
		{name: "transparent with NET_RAW", by: []who{rootLike}, prepare: option(unix.SOL_IP, unix.IP_TRANSPARENT, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)},
		{name: "forged state", by: everybody, prepare: option(unix.SOL_TCP, unix.TCP_REPAIR, unix.SOL_TCP, unix.TCP_REPAIR, 1), denied: []error{unix.EPERM}},
		{name: "as the proxy's user", by: powerless, prepare: becomeProxy, denied: []error{unix.EPERM}},
		{name: "as the proxy's user for files", by: powerless, prepare: borrowProxy, denied: []error{unix.EPERM}},
		{name: "a socket given to the proxy's user", by: []who{bareRoot, appUser}, prepare: giveToProxy, denied: []error{unix.EPERM}},
		{name: "a socket given to the proxy's user, with CHOWN", by: []who{rootLike}, prepare: giveToProxy},
	})
}

// TestKnownBypasses: what docs/security.md says is open. SETUID is in the default set of every runtime, so root of an
// ordinary image has it; `drop: [ALL]` closes it.
func TestKnownBypasses(t *testing.T) {
	forEachWay(t, []way{
		{name: "SETUID to the proxy's user", by: []who{rootLike}, prepare: becomeProxy, opens: true},
		{name: "SETUID to the proxy's user for files", by: []who{rootLike}, prepare: borrowProxy, opens: true},
	})
}
