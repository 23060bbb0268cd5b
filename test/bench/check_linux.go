package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
)

// checked is what a peer was seen to do before it was measured.
type checked struct {
	Bytes int // that came back as they had been sent
	// of TLS between the sides, as a client of the benchmark's own negotiates it with the server side; empty for what
	// is no TLS
	Version string
	Cipher  string
	Group   string
}

// check is an error unless the peer passes bytes on as they are and, if it is TLS, refuses whom like with like must
// refuse: a client without a certificate, a client with one of another authority, and a server with one of another
// authority.
func (b *bench) check(p peer) (c checked, err error) {
	r, err := b.startPair(p, want{})
	if err != nil {
		return c, err
	}
	defer r.stop()
	if c.Bytes, err = r.echoBytes(1 << 20); err != nil {
		return c, fmt.Errorf("%s: bytes are not passed on as they are: %w", p.name, err)
	}
	if !p.tls || p.pods { // in pods the same program runs, and its ports are reached by redirection alone
		return c, nil
	}
	if err := b.checkServerSide(r, &c); err != nil {
		return c, fmt.Errorf("%s: %w", p.name, err)
	}
	if err := b.checkClientSide(r); err != nil {
		return c, fmt.Errorf("%s: %w", p.name, err)
	}
	return c, nil
}

// echoBytes sends n random bytes and compares what comes back.
func (r *pair) echoBytes(n int) (int, error) {
	sent, got := make([]byte, n), make([]byte, n)
	_, _ = rand.Read(sent)
	var c *net.TCPConn
	err := r.generator.do(func() (err error) {
		c, err = net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(r.entry))
		return err
	})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(readyTimeout))
	failed := make(chan error, 1)
	go func() {
		_, err := c.Write(append([]byte{modeEcho}, sent...))
		failed <- err
	}()
	if m, err := io.ReadFull(c, got); err != nil {
		return m, fmt.Errorf("after %d bytes: %w", m, err)
	}
	if !bytes.Equal(sent, got) {
		return 0, errors.New("other bytes come back")
	}
	return n, <-failed
}

// checkServerSide is a client of the server side, good and bad.
func (b *bench) checkServerSide(r *pair, c *checked) error {
	good, foreign := b.authority.issue("client"), newAuthority().issue("client")
	state, err := b.exchangeTLS(r.serverSide.listen, good)
	if err != nil {
		return fmt.Errorf("a client with a certificate is refused: %w", err)
	}
	c.Version, c.Cipher, c.Group = tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), state.CurveID.String()
	if c.Version != "TLS 1.3" || c.Cipher != "TLS_AES_128_GCM_SHA256" {
		return fmt.Errorf("it speaks %s with %s", c.Version, c.Cipher)
	}
	if state.DidResume {
		return errors.New("it resumes sessions")
	}
	if _, err := b.exchangeTLS(r.serverSide.listen, tls.Certificate{}); err == nil {
		return errors.New("a client without a certificate is served")
	}
	if _, err := b.exchangeTLS(r.serverSide.listen, foreign); err == nil {
		return errors.New("a client of another authority is served")
	}
	return nil
}

// exchangeTLS sends one message to a server side as a client with that certificate; the error is that of the handshake
// or, as TLS 1.3 has it, of the answer.
func (b *bench) exchangeTLS(target netip.AddrPort, leaf tls.Certificate) (tls.ConnectionState, error) {
	roots := x509.NewCertPool()
	roots.AddCert(b.authority.Certificate)
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{RootCAs: roots, ServerName: serverHost, NextProtos: []string{api.ALPN},
		ClientSessionCache: tls.NewLRUClientSessionCache(4), MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &leaf, nil }}}
	var state tls.ConnectionState
	for range 2 { // the second would resume, if tickets were given
		c, err := d.Dial("tcp4", target.String())
		if err != nil {
			return state, err
		}
		err = func() error {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Write([]byte{modeEcho, 'x'}); err != nil {
				return err
			}
			var answer [1]byte
			_, err := io.ReadFull(c, answer[:])
			state = c.(*tls.Conn).ConnectionState()
			return err
		}()
		if err != nil {
			return state, err
		}
	}
	return state, nil
}

// checkClientSide lets the client side meet a server of another authority.
func (b *bench) checkClientSide(r *pair) error {
	foreign := newAuthority().issue("server")
	l, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{foreign}, ClientAuth: tls.RequestClientCert, NextProtos: []string{api.ALPN}})
	if err != nil {
		return err
	}
	defer l.Close()
	go serveEcho(l)
	s := r.side("impostor", true, r.generator, netip.MustParseAddrPort(l.Addr().String()))
	process, err := s.launch(r.peer)
	if err != nil {
		return err
	}
	defer process.stop()
	err = os.ErrDeadlineExceeded
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		c, dialErr := net.DialTimeout("tcp4", s.listen.String(), time.Second)
		if err = cmp.Or(dialErr, process.alive()); err != nil {
			continue
		}
		c.Close()
		break
	}
	if err != nil {
		return fmt.Errorf("the client side does not listen: %w", err)
	}
	if err := exchangeOnce(s.listen); err == nil {
		return errors.New("a server of another authority is believed")
	}
	return nil
}

// serveEcho is a backend behind TLS, for impostors.
func serveEcho(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			var b [2]byte
			if _, err := io.ReadFull(c, b[:]); err == nil {
				_, _ = c.Write(b[1:])
			}
		}()
	}
}
