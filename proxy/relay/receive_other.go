//go:build !linux

package relay

import "net"

// receiver is a plain read where the system's calls are not Linux's: the proxy runs on Linux alone, and its tests anywhere.
type receiver struct {
	tcp  *net.TCPConn
	into func() []byte
}

func newReceiver(c *net.TCPConn, into func() []byte, _ func()) (*receiver, error) {
	return &receiver{tcp: c, into: into}, nil
}

func (r *receiver) receive() (int, error) { return r.tcp.Read(r.into()) }
