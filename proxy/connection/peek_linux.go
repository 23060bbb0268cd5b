package connection

import (
	"net"

	"golang.org/x/sys/unix"
)

// peekFirst waits for the first bytes of a connection, and leaves them there. It returns none when the connection has
// ended.
func peekFirst(c *net.TCPConn) []byte {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	var first [6]byte
	var n int
	_ = raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	return first[:max(0, n)]
}
