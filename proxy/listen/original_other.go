//go:build !linux

package listen

import (
	"errors"
	"net"
	"net/netip"
)

// KernelOriginalDst works on Linux only; elsewhere the proxy builds, so that it can be developed, and refuses every
// redirected connection.
func KernelOriginalDst(*net.TCPConn) (netip.AddrPort, error) {
	return netip.AddrPort{}, errors.New("original destinations are a feature of Linux")
}
