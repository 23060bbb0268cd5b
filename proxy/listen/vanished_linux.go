package listen

import (
	"net"

	"golang.org/x/sys/unix"
)

// vanishedRetransmits is how many retransmissions in a row may time out. They come after 0.2 s at least and at doubled distances, so eight are 51 s of
// silence. The kernel itself gives up after fifteen, a quarter of an hour in which an app waits for a node that is gone.
const vanishedRetransmits = 8

// Vanished tells whether the peer of c acknowledges nothing any more of what is under way to it. TCP_USER_TIMEOUT would tell too, but it also ends
// the connection to a peer that is there and does not read, for which an app may have its reasons: a closed window is no silence. Keepalive finds
// peers that vanish while nothing is under way.
func Vanished(c *net.TCPConn) bool { return vanished(c, vanishedRetransmits) }

func vanished(c *net.TCPConn, retransmits uint8) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	_ = raw.Control(func(fd uintptr) { // an error is a connection that is closed already
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		gone = err == nil && info.Unacked > 0 && info.Retransmits >= retransmits
	})
	return gone
}
