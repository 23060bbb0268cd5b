//go:build !linux

package relay

import "net"

// unresponsive is not known here: keepalive and the kernel's own limits decide.
func unresponsive(*net.TCPConn) bool { return false }

// wasReset is not known here.
func wasReset(*net.TCPConn) bool { return false }
