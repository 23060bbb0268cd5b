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

// VanishedSocket is Vanished for a socket by its descriptor.
func VanishedSocket(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	return err == nil && silent(info, vanishedRetransmits)
}

func vanished(c *net.TCPConn, retransmits uint8) bool {
	info, ok := state(c)
	return ok && silent(info, retransmits)
}

func silent(info *unix.TCPInfo, retransmits uint8) bool {
	return info.Unacked > 0 && info.Retransmits >= retransmits
}

// tcpClose is TCP_CLOSE of include/net/tcp_states.h.
const tcpClose = 7

// WasReset tells whether a connection that reads as ended was reset. The kernel tells the error of a socket once: when a write has got it, a read
// sees an orderly end. An end that is one leaves the socket half open, until we have closed our half too; do not ask after that. A connection that somebody has closed here counts as reset: its end was not seen.
func WasReset(c *net.TCPConn) bool {
	info, ok := state(c)
	return !ok || info.State == tcpClose
}

// WasResetSocket is WasReset for a socket by its descriptor.
func WasResetSocket(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	return err != nil || info.State == tcpClose
}

// state is what the kernel knows of the connection; there is nothing of one that is closed here.
func state(c *net.TCPConn) (info *unix.TCPInfo, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, false
	}
	if raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO) }) != nil || err != nil {
		return nil, false
	}
	return info, true
}
