package relay

import (
	"net"
	"time"
	"unsafe"

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
func unresponsiveSocket(fd int) bool { return silent(fd, maxRetransmits, probeSilence) }

// A peer that has closed its window is probed, at intervals of up to two minutes, and there is no keepalive meanwhile.
// So many probes without an answer, and no other acknowledgment for so long, are silence as well.
const (
	maxProbes    = 3
	probeSilence = 51_000 // ms
)

func silent(fd int, retransmits uint8, probeSilence uint32) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return false
	}
	return info.Unacked > 0 && info.Retransmits >= retransmits || info.Probes >= maxProbes && info.Last_ack_recv >= probeSilence
}

// brokenBy is the error of a socket that has failed, and a reset where the kernel has told it already.
func brokenBy(fd int) error {
	if code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
		return unix.Errno(code)
	}
	return unix.ECONNRESET
}

// quietFor is how long c has neither sent nor received data. It is false where the kernel does not tell.
func quietFor(c *net.TCPConn) (d time.Duration, ok bool) {
	ok = ask(c, func(fd int) bool {
		info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err != nil {
			return false
		}
		d = time.Duration(min(info.Last_data_sent, info.Last_data_recv)) * time.Millisecond
		return true
	}, false)
	return d, ok
}

// queued is how much memory the kernel holds for what was received and not read, and sent and not acknowledged.
func queued(fd int) (received, sent int64) {
	const receiveQueue, sendQueue, all = 0, 5, 9 // SK_MEMINFO_* of linux/sock_diag.h
	var info [all]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, 0
	}
	return int64(info[receiveQueue]), int64(info[sendQueue])
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
