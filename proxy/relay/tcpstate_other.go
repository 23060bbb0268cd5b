//go:build !linux

package relay

import "net"

// vanished is not known here: keepalive and the kernel's own limits decide.
func vanished(*net.TCPConn) bool { return false }

// wasReset is not known here.
func wasReset(*net.TCPConn) bool { return false }
