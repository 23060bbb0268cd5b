//go:build !linux

package relay

import (
	"net"
	"time"
)

// unresponsive is not known here: keepalive and the kernel's own limits decide.
func unresponsive(*net.TCPConn) bool { return false }

// wasReset is not known here.
func wasReset(*net.TCPConn) bool { return false }

// quietFor is not known here.
func quietFor(*net.TCPConn) (time.Duration, bool) { return 0, false }
