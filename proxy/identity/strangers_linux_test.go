package identity_test

import (
	"crypto/tls"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// TestGroups: the peer chooses the group of the key exchange before it has proved anything, so none that is expensive
// is there to choose, for neither side.
func TestGroups(t *testing.T) {
	s, err := load(t, good(t).Plain(t))
	if err != nil {
		t.Fatal(err)
	}
	allow := func(spiffeid.ID) error { return nil }
	for group, want := range map[tls.CurveID]bool{
		tls.X25519MLKEM768: true, tls.SecP256r1MLKEM768: true, tls.X25519: true, tls.CurveP256: true,
		tls.CurveP384: false, tls.CurveP521: false, tls.SecP384r1MLKEM1024: false,
	} {
		peer := &tls.Config{MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{group}, InsecureSkipVerify: true,
			Certificates: s.ServerConfig(allow).Certificates, ClientAuth: tls.RequireAnyClientCert}
		if err := handshake(t, s.ServerConfig(allow), peer); (err == nil) != want {
			t.Errorf("a client of %s: %v", group, err)
		}
		config, _ := s.ClientConfig(func(spiffeid.ID, []string) error { return nil })
		if err := handshake(t, peer, config); (err == nil) != want {
			t.Errorf("a server of %s: %v", group, err)
		}
	}
}

// handshake returns what the server says of it.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		c, err := tls.Dial("tcp", listener.Addr().String(), client)
		if err == nil {
			_, _ = c.Read(make([]byte, 1))
			c.Close()
		}
	}()
	c, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return tls.Server(c, server).Handshake()
}

// BenchmarkStrangers is the CPU time of a server for one handshake with each kind of stranger, of a key exchange on
// each group, and of a client with each kind of server.
func BenchmarkStrangers(b *testing.B) {
	w := good(b)
	s, err := load(b, w.Plain(b))
	if err != nil {
		b.Fatal(err)
	}
	strangers := testca.Strangers(b, w.CA, proxytest.ID("app"))
	server := func() *tls.Config { return s.ServerConfig(func(spiffeid.ID) error { return nil }) }
	client := func() *tls.Config {
		config, _ := s.ClientConfig(func(spiffeid.ID, []string) error { return nil })
		return config
	}
	stranger := func(c tls.Certificate) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{api.ALPN}, Certificates: []tls.Certificate{c},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }}
	}
	for _, kind := range strangers {
		b.Run(kind.Name, func(b *testing.B) { refusals(b, relay.Server, server, stranger(kind.Chain)) })
	}
	for _, group := range []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024} {
		config := stranger(strangers[0].Chain)
		config.CurvePreferences = []tls.CurveID{group}
		b.Run("group "+group.String(), func(b *testing.B) { refusals(b, relay.Server, server, config) })
	}
	for _, kind := range strangers {
		b.Run("as a server: "+kind.Name, func(b *testing.B) { refusals(b, relay.Client, client, stranger(kind.Chain)) })
	}
}

// refusals measures our end of handshakes with a peer.
func refusals(b *testing.B, role relay.Role, ours func() *tls.Config, theirs *tls.Config) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	runtime.LockOSThread() // its CPU time is ours
	defer runtime.UnlockOSThread()
	var busy time.Duration
	for b.Loop() {
		go refused(listener.Addr().String(), role, theirs)
		c, err := listener.Accept()
		if err != nil {
			b.Fatal(err)
		}
		before := threadTime(b)
		_, err = relay.Own.Shake(c.(*net.TCPConn), nil, role, ours(), time.Now().Add(10*time.Second), nil)
		busy += threadTime(b) - before
		c.Close()
		if err == nil {
			b.Fatal("a stranger got in")
		}
	}
	b.ReportMetric(float64(busy.Microseconds())/float64(b.N), "µs-cpu/op")
}

// refused is the peer's end.
func refused(address string, role relay.Role, config *tls.Config) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer c.Close()
	conn := tls.Client(c, config)
	if role == relay.Client {
		conn = tls.Server(c, config)
	}
	if conn.Handshake() == nil {
		_, _ = conn.Read(make([]byte, 1))
	}
}

// threadTime is the CPU time of the calling thread.
func threadTime(tb testing.TB) time.Duration {
	tb.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(now.Nano())
}
