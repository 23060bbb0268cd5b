package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Times of the end after SIGTERM: 1 s in which new connections are still served, then what is left of 5 s for requests
// that run.
const (
	lameDuck = time.Second
	lastCall = 3500 * time.Millisecond
)

func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	var l listeners
	flags.Var(&l.ports, "port", "port of HTTP; may be repeated, as the others (default 8080)")
	flags.Var(&l.tlsPorts, "tls-port", "port of HTTPS, with a certificate that nobody knows")
	flags.Var(&l.udpPorts, "udp-port", "port of datagrams, which are sent back")
	flags.StringVar(&l.address, "listen", "", "address of TCP ports (default all)")
	flags.BoolVar(&l.http1, "http1", false, "speak HTTP/1.1 only, and so no gRPC")
	delay := flags.Duration("delay", 0, "time before it listens: a slow start")
	if err := noArgs(flags, args); err != nil {
		return err
	}
	if len(l.ports) == 0 {
		l.ports = ports{8080}
	}
	select {
	case <-time.After(*delay):
	case <-ctx.Done():
		return nil
	}
	return l.serve(ctx, newHandler())
}

// listeners is where a server is reached.
type listeners struct {
	ports, tlsPorts, udpPorts ports
	address                   string // of TCP; "" is all
	http1                     bool
}

// serve serves the handler on all ports until ctx ends, and then ends as the package comment says.
func (l *listeners) serve(ctx context.Context, h *handler) error {
	var open []net.Listener
	defer func() { closeAll(open) }()
	for _, port := range append(append(ports{}, l.ports...), l.tlsPorts...) {
		listener, err := net.Listen("tcp", net.JoinHostPort(l.address, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		open = append(open, listener)
	}
	if len(l.tlsPorts) > 0 {
		config, err := unknownCertificate()
		if err != nil {
			return err
		}
		for i := len(l.ports); i < len(open); i++ {
			open[i] = tls.NewListener(open[i], config)
		}
	}
	for _, port := range l.udpPorts {
		conn, err := net.ListenPacket("udp", ":"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		defer conn.Close()
		go sendBack(conn)
	}
	over, end := context.WithCancel(context.Background())
	defer end()
	defer context.AfterFunc(ctx, func() {
		h.ending.Store(true)
		time.Sleep(lameDuck)
		end()
	})()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(!l.http1)
	return serveHTTP(over, &http.Server{Handler: h, Protocols: protocols, IdleTimeout: 2 * time.Minute}, lastCall, open...)
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close() // a second time, where the server has served it: no harm
	}
}

// serveHTTP serves on all listeners until ctx ends, and then lets requests that run finish within the time.
func serveHTTP(ctx context.Context, server *http.Server, last time.Duration, on ...net.Listener) error {
	server.ReadHeaderTimeout = 10 * time.Second
	failed := make(chan error, len(on))
	for _, listener := range on {
		go func() { failed <- server.Serve(listener) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	within, cancel := context.WithTimeout(context.Background(), last)
	defer cancel()
	if err := server.Shutdown(within); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// sendBack sends each datagram back, until the end of the connection, with a word in front: an echo of somebody else's
// is not taken for it.
func sendBack(conn net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = conn.WriteTo(append([]byte("app: "), buffer[:n]...), from) // who asks finds the answer missing
		}
	}
}

// unknownCertificate is self-signed and made anew: neither the kubelet nor the proxy verifies what a probe meets.
func unknownCertificate() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, nil
}
