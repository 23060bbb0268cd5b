package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
)

// runRelay is the plain TCP relay that encryption is compared with: one goroutine per direction, and half-close passed
// through. With splice the kernel moves the bytes from socket to socket (io.Copy between TCP connections); without,
// they pass through a buffer of 32 KiB.
func runRelay(at, target netip.AddrPort, splice bool, in io.Reader) error {
	l, err := listenTCP(at)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		l.Close()
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		go relay(c.(*net.TCPConn), target, splice)
	}
}

// listenTCP listens without Multipath TCP, which has no splice.
func listenTCP(at netip.AddrPort) (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp4", at.String())
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	return l, nil
}

func relay(from *net.TCPConn, target netip.AddrPort, splice bool) {
	defer from.Close()
	to, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(target))
	if err != nil {
		return
	}
	defer to.Close()
	var both sync.WaitGroup
	both.Go(func() { pipe(to, from, splice) })
	pipe(from, to, splice)
	both.Wait()
}

func pipe(dst, src *net.TCPConn, splice bool) {
	if splice {
		_, _ = io.Copy(dst, src)
	} else {
		_, _ = io.Copy(struct{ io.Writer }{dst}, struct{ io.Reader }{src}) // hides what would splice
	}
	_ = dst.CloseWrite()
}
