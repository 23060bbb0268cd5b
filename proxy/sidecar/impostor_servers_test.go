package sidecar

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// secret is what the app says, and what no impostor may read.
const secret = "the-secret-of-the-app"

// impostor is a server at the address of the mesh's Service, which keeps every byte that it gets, raw and decrypted.
type impostor struct {
	addr netip.AddrPort

	mu        sync.Mutex
	raw       bytes.Buffer
	decrypted bytes.Buffer
	served    int // connections that have ended
}

// recorded is a connection whose bytes the server keeps.
type recorded struct {
	net.Conn
	h *impostor
}

func (r recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	r.h.raw.Write(p[:n])
	return n, err
}

// startImpostor serves every connection with act, which returns what it could read as plaintext.
func startImpostor(t *testing.T, act func(net.Conn) []byte) *impostor {
	t.Helper()
	l := mustListen(t, serverIP)
	h := &impostor{addr: listen.AddrPort(l.Addr())}
	serveEach(t, l, func(c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(12 * time.Second))
		got := act(recorded{c, h})
		h.mu.Lock()
		defer h.mu.Unlock()
		h.decrypted.Write(got)
		h.served++
	})
	return h
}

// wantNothing fails if the server has read anything of the app.
func (h *impostor) wantNothing(t *testing.T) {
	t.Helper()
	eventually(t, "the impostor's connection ends", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.served > 0 })
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.decrypted.Len() > 0 {
		t.Errorf("the impostor read %q", h.decrypted.String()[:min(h.decrypted.Len(), 60)])
	}
	if bytes.Contains(h.raw.Bytes(), []byte(secret)) {
		t.Error("the app's bytes went over the wire as plaintext")
	}
	if h.raw.Len() == 0 {
		t.Error("the impostor was not even dialed: this shows nothing")
	}
}

// overTLS is a server that takes every client and reads what it sends.
func overTLS(config *tls.Config) func(net.Conn) []byte {
	return func(c net.Conn) []byte {
		conn := tls.Server(c, config)
		if err := conn.Handshake(); err != nil {
			return nil
		}
		got, _ := io.ReadAll(conn)
		return got
	}
}

func serverWith(leaf tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{leaf}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{api.ALPN}}
}

// askImpostor lets the app say its secret to the server, and wants a reset: an app must not take a refusal for a short
// answer.
func (m *mesh) askImpostor(t *testing.T, h *impostor) {
	t.Helper()
	m.client.dials(h.addr)
	c, err := net.DialTimeout("tcp", m.client.outboundAddr(), 5*time.Second)
	if err == nil { // a refusal may be seen as early as by connect
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(15 * time.Second))
		written := make(chan error, 1)
		go func() {
			_, err := io.WriteString(c, strings.Repeat(secret, 4000))
			written <- err
		}()
		var got []byte
		if got, err = io.ReadAll(c); len(got) > 0 {
			t.Errorf("the app got %q", got)
		}
		if err == nil { // the kernel tells of a reset once: it may have told the one who writes
			err = <-written
		}
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the app got %v, want a reset", err)
	}
	h.wantNothing(t)
}

// TestImpostorCertificates: every certificate that a server of the Service must not have, presented by one that is at
// its address.
func TestImpostorCertificates(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	id := proxytest.ID("server")
	issue := func(change func(*x509.Certificate)) tls.Certificate { return m.ca.Issue(t, id, change) }
	foreign, err := url.Parse("spiffe://other.example/ns/prod/deployment/server")
	if err != nil {
		t.Fatal(err)
	}
	revoked, middle := m.ca.Issue(t, id), issue(func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature, nil
	})
	below := testca.Below(t, middle).Issue(t, id)
	below.Certificate = append(below.Certificate, middle.Leaf.Raw)
	behind := m.ca.Issue(t, proxytest.ID("client"))
	behind.Certificate = append(behind.Certificate, m.serverFiles.Leaf.Leaf.Raw)
	stolen := m.ca.Issue(t, id)
	stolen.PrivateKey = m.ca.Issue(t, id).PrivateKey.(*ecdsa.PrivateKey)
	m.clientFiles.Mesh.RevokedKeys = []string{svid.KeyDigest(revoked.Leaf)}
	m.client.publish(t, m.clientFiles.Sealed(t))
	usage := func(usages ...x509.ExtKeyUsage) tls.Certificate {
		return issue(func(c *x509.Certificate) { c.ExtKeyUsage = usages })
	}
	for name, c := range map[string]struct {
		leaf   tls.Certificate
		reason string
	}{
		"other CA":           {testca.New(t, proxytest.TrustDomain).Issue(t, id), string(svid.UnknownAuthority)},
		"other trust domain": {issue(func(c *x509.Certificate) { c.URIs = []*url.URL{foreign} }), string(svid.WrongTrustDomain)},
		"two URI names":      {issue(func(c *x509.Certificate) { c.URIs = append(c.URIs, foreign) }), string(svid.NotAnSVID)},
		"host name only": {issue(func(c *x509.Certificate) {
			c.URIs, c.DNSNames = nil, []string{"server.prod.svc.cluster.local"}
		}), string(svid.NotAnSVID)},
		"CA as leaf":               {middle, string(svid.NotAnSVID)},
		"expired":                  {issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), string(svid.Expired)},
		"not yet valid":            {issue(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), string(svid.NotYetValid)},
		"for clients only":         {usage(x509.ExtKeyUsageClientAuth), string(svid.WrongUsage)},
		"no extended usage":        {usage(), string(svid.WrongUsage)},
		"any extended usage":       {usage(x509.ExtKeyUsageAny), string(svid.WrongUsage)},
		"revoked":                  {revoked, string(svid.Revoked)},
		"right CA, wrong identity": {m.ca.Issue(t, proxytest.ID("client")), "wrong_identity"},
		"below a leaf":             {below, string(svid.UnknownAuthority)},
		"right one second":         {behind, "wrong_identity"},
		"another's, without key":   {stolen, "not_tls"},
	} {
		t.Run(name, func(t *testing.T) {
			m.askImpostor(t, startImpostor(t, overTLS(serverWith(c.leaf))))
			m.client.wantMetric(t, `meshless_handshake_failures_total{direction="outbound",reason="`+c.reason+`"}`)
		})
	}
	m.control(t)
}

// control shows that nothing but what a test did to it kept a server from being spoken to, and that the proxies serve
// after all of it.
func (m *mesh) control(t testing.TB) {
	t.Helper()
	m.client.dials(m.server.inboundAddr())
	if err := exchange(m.client.outboundAddr(), "control"); err != nil {
		t.Errorf("the control: %v", err)
	}
	if strings.Contains(m.client.logs.String()+m.server.logs.String(), "panic") {
		t.Error("there was a panic")
	}
}

// counted tells whether the pod's metrics have a line that begins so and has counted something.
func (p *pod) counted(t testing.TB, prefix string) bool {
	t.Helper()
	for line := range strings.Lines(p.scrape(t)) {
		if strings.HasPrefix(line, prefix) && !strings.HasSuffix(line, " 0\n") {
			return true
		}
	}
	return false
}

// TestImpostorProtocols: servers that have the right certificate, or none, and speak otherwise than a proxy of the mesh
// would.
func TestImpostorProtocols(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	leaf := m.ca.Issue(t, proxytest.ID("server"))
	old := serverWith(leaf)
	old.MaxVersion = tls.VersionTLS12
	unasked := serverWith(leaf)
	unasked.ClientAuth = tls.NoClientCert
	protocol := serverWith(leaf)
	protocol.NextProtos = []string{"h2"}
	says := func(text string) func(net.Conn) []byte {
		return func(c net.Conn) []byte {
			_, _ = io.ReadFull(c, make([]byte, 5))
			_, _ = io.WriteString(c, text)
			_, _ = io.ReadAll(c)
			return nil
		}
	}
	reads := func(n int, end func(net.Conn)) func(net.Conn) []byte {
		return func(c net.Conn) []byte {
			_, _ = io.ReadFull(c, make([]byte, n))
			end(c)
			return nil
		}
	}
	cut := func(c net.Conn) { c.(recorded).Conn.(*net.TCPConn).SetLinger(0) } // and the caller closes
	for name, act := range map[string]func(net.Conn) []byte{
		"TLS 1.2 only":               overTLS(old),
		"no certificate asked":       overTLS(unasked),
		"another protocol (ALPN)":    overTLS(protocol),
		"plaintext":                  says("220 I am plaintext\r\n"),
		"plaintext echo of a hello":  says("\x16\x03\x01\x00\x05hello"),
		"record of the largest size": says("\x16\x03\x03\xff\xff" + strings.Repeat("x", 1<<17)),
		"fatal alert":                says("\x15\x03\x03\x00\x02\x02\x28"),
		"alerts without end":         says(strings.Repeat("\x15\x03\x03\x00\x02\x01\x00", 1000)),
		"change cipher specs":        says(strings.Repeat("\x14\x03\x03\x00\x01\x01", 1000)),
		"application data":           says("\x17\x03\x03\x00\x05hello"),
		"end at once":                reads(1, func(net.Conn) {}),
		"reset in the hello":         reads(100, cut),
		"end after the hello":        reads(1000, func(net.Conn) {}),
		"end after its own hello":    halfServer(leaf, 1, ends),
		"reset after its own hello":  halfServer(leaf, 1, resets),
		"silence after its hello":    halfServer(leaf, 1, silence),
		"end after its certificate":  halfServer(leaf, 5, ends),
		"reset before its last word": halfServer(leaf, 6, resets),
		"silence":                    reads(1, func(c net.Conn) { _, _ = io.ReadAll(c) }),
		"hellos of nothing":          says(strings.Repeat("\x16\x03\x03\x00\x04\x02\x00\x00\x00", 3)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &mesh{ca: m.ca, app: m.app, server: m.server, serverFiles: m.serverFiles, clientFiles: m.clientFiles}
			m.client = startPod(t, clientIP, netip.MustParseAddrPort(clientIP+":1"), m.clientFiles.Sealed(t))
			m.askImpostor(t, startImpostor(t, act))
			m.client.wantMetric(t, `meshless_handshake_failures_total{direction="outbound"`)
			if m.client.counted(t, `meshless_connections_opened_total{direction="outbound"`) {
				t.Error("a connection was opened to an impostor")
			}
			m.control(t)
		})
	}
}

// endOfServer is how a server leaves its handshake.
type endOfServer int

const (
	ends    endOfServer = iota // with a FIN
	resets                     // with an RST
	silence                    // it does not leave, and says nothing more
)

// halfServer begins as a good server, leaves its first flight after so many records, and ends.
func halfServer(leaf tls.Certificate, records int, end endOfServer) func(net.Conn) []byte {
	return func(c net.Conn) []byte {
		_ = tls.Server(&cutFlight{Conn: c, left: records}, serverWith(leaf)).Handshake()
		switch end {
		case resets:
			_ = c.(recorded).Conn.(*net.TCPConn).SetLinger(0)
		case silence:
			_, _ = io.ReadAll(c)
		}
		return nil
	}
}

var errCut = errors.New("the flight is cut here")

// cutFlight passes only so many TLS records on.
type cutFlight struct {
	net.Conn
	left int
}

func (c *cutFlight) Write(p []byte) (int, error) {
	written := 0
	for rest := p; len(rest) > 5; c.left-- {
		if c.left == 0 {
			return written, errCut
		}
		n := 5 + int(rest[3])<<8 + int(rest[4])
		if _, err := c.Conn.Write(rest[:n]); err != nil {
			return written, err
		}
		rest, written = rest[n:], written+n
	}
	return written, nil
}
