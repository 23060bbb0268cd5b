//go:build !linux

package listen

import "net"

// Vanished is not known here: keepalive and the kernel's own limits decide.
func Vanished(*net.TCPConn) bool { return false }

// WasReset is not known here.
func WasReset(*net.TCPConn) bool { return false }
