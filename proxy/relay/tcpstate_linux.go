package relay

import (
	"net"

	"golang.org/x/sys/unix"
)

// maxRetransmits is how many retransmissions in a row may time out. The first comes after 0.2 s at least, and each
// interval doubles, so eight are 51 s of silence. The kernel itself gives up after fifteen: for a quarter of an hour an
// app would wait for a node that is gone.
const maxRetransmits = 8

// unresponsive tells whether the peer of c has stopped acknowledging what is under way to it. TCP_USER_TIMEOUT would
// tell, too, but it also ends the connection to a peer that is alive and does not read: a closed window is no silence.
// Keepalive finds peers that go while nothing is under way.
func unresponsive(c *net.TCPConn) bool { return ask(c, unresponsiveSocket, false) }

// unresponsiveSocket is unresponsive for a socket by its descriptor.
func unresponsiveSocket(fd int) bool { return silent(fd, maxRetransmits) }

func silent(fd int, retransmits uint8) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	return err == nil && info.Unacked > 0 && info.Retransmits >= retransmits
}

// tcpClose is TCP_CLOSE of include/net/tcp_states.h.
const tcpClose = 7

// wasReset tells whether a connection that reads as ended was reset. The kernel tells the error of a socket once: when
// a write has got it, a read sees an orderly end. A real end leaves the socket half open until we have closed our half,
// so do not ask after that. A connection that was closed here counts as reset: its end was not seen.
func wasReset(c *net.TCPConn) bool { return ask(c, wasResetSocket, true) }

// wasResetSocket is wasReset for a socket by its descriptor.
func wasResetSocket(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	return err != nil || info.State == tcpClose
}

// ask puts a question to the socket of a connection. For one that is closed here the answer is given.
func ask(c *net.TCPConn, question func(fd int) bool, closed bool) bool {
	answer := closed
	if raw, err := c.SyscallConn(); err == nil {
		// fails for a closed one, and then does not ask
		_ = raw.Control(func(fd uintptr) { answer = question(int(fd)) })
	}
	return answer
}
