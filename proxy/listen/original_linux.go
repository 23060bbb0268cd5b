package listen

import (
	"encoding/binary"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// originalDst is SO_ORIGINAL_DST (linux/netfilter_ipv4.h) and IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv6/ip6_tables.h).
const originalDst = 80

// KernelOriginalDst asks the kernel's connection tracking for the destination before redirection.
func KernelOriginalDst(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	ask := original6
	if AddrPort(c.LocalAddr()).Addr().Is4() { // a dual-stack socket too keeps IPv4 connections in the IPv4 table
		ask = original4
	}
	var dst netip.AddrPort
	var askErr error
	if err := raw.Control(func(fd uintptr) { dst, askErr = ask(int(fd)) }); err != nil {
		return netip.AddrPort{}, err
	}
	return dst, askErr
}

// original4 reads a sockaddr_in: x/sys has no function for it, but one for a structure of sufficient size.
func original4(fd int) (netip.AddrPort, error) {
	mreq, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, originalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := mreq.Multiaddr // family (2 bytes), port (2, network order), address (4)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4])), nil
}

// original6 reads a sockaddr_in6, which is the beginning of an ip6_mtuinfo.
func original6(fd int) (netip.AddrPort, error) {
	info, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, originalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port := (*[2]byte)(unsafe.Pointer(&info.Addr.Port)) // in network order, whatever this machine's is
	return netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr).Unmap(), binary.BigEndian.Uint16(port[:])), nil
}
