package interop

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/test/testca"
)

// tunnel is our half of a TLS connection, in this process and on loopback: what a proxy does behind its decisions.
type tunnel struct {
	records relay.Records
	engine  *relay.Engine
	leaf    tls.Certificate
	dir     string            // cert.pem, key.pem and ca.pem, for the programs
	ends    chan relay.Result // of all sessions
}

// TestRecords: what other stacks do to records behind the handshake: they rekey, pad, fragment, end in order and
// otherwise, as our clients and as our servers, over both of our record layers.
func TestRecords(t *testing.T) {
	for _, records := range []relay.Records{relay.Own, relay.Standard} {
		t.Run(string(records), func(t *testing.T) {
			tn := newTunnel(t, records)
			t.Run("openssl s_client", tn.testOpenSSLClient)
			t.Run("openssl s_server", tn.testOpenSSLServer)
			t.Run("gnutls-cli", tn.testGnuTLSClient)
			t.Run("gnutls-serv", tn.testGnuTLSServer)
			t.Run("JDK client", tn.testJavaClient)
			t.Run("JDK server", tn.testJavaServer)
			t.Run("crypto/tls", tn.testGo)
		})
	}
}

func newTunnel(t *testing.T, records relay.Records) *tunnel {
	t.Helper()
	engine, err := relay.NewEngine(runtime.NumCPU(), relay.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(engine.Close)
	ca := testca.New(t, "cluster.local")
	tn := &tunnel{records: records, engine: engine, dir: t.TempDir(), ends: make(chan relay.Result, 1000),
		leaf: ca.Issue(t, "spiffe://cluster.local/ns/prod/deployment/web")}
	key, err := x509.MarshalPKCS8PrivateKey(tn.leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"cert.pem": svid.EncodeCertificates(tn.leaf.Leaf),
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(filepath.Join(tn.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tn
}

func (tn *tunnel) file(name string) string { return filepath.Join(tn.dir, name) }

// relay makes a session of two connections, whichever of them is TLS.
func (tn *tunnel) relay(t *testing.T, wire, plain net.Conn, role relay.Role) {
	config := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, Certificates: []tls.Certificate{tn.leaf}, InsecureSkipVerify: true}
	var side *relay.Side
	h, err := tn.records.Shake(wire.(*net.TCPConn), nil, role, config, time.Now().Add(patience), nil)
	if err == nil {
		side, err = h.Side()
	}
	if err != nil {
		t.Errorf("handshake: %v", err)
		wire.Close()
		plain.Close()
		return
	}
	client, server := side, relay.Plain(plain.(*net.TCPConn))
	if role == relay.Client {
		client, server = server, client
	}
	relay.New(client, server, relay.Options{}).Start(tn.engine, func(r relay.Result) { tn.ends <- r })
}

// inbound is a port at which foreign clients reach an app through us.
func (tn *tunnel) inbound(t *testing.T, app func(*net.TCPConn)) string {
	t.Helper()
	behind := serveTCP(t, func(c *net.TCPConn) { app(c) })
	return serveTCP(t, func(wire *net.TCPConn) {
		plain, err := net.Dial("tcp", behind)
		if err != nil {
			t.Error(err)
			return
		}
		tn.relay(t, wire, plain, relay.Server)
	})
}

// outbound is a connection of an app through us to a foreign server.
func (tn *tunnel) outbound(t *testing.T, server string) *net.TCPConn {
	t.Helper()
	port := serveTCP(t, func(plain *net.TCPConn) {
		wire, err := net.Dial("tcp", server)
		for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); wire, err = net.Dial("tcp", server) {
			time.Sleep(5 * time.Millisecond) // gnutls-serv says that it listens before it does
		}
		if err != nil {
			t.Error(err)
			plain.Close()
			return
		}
		tn.relay(t, wire, plain, relay.Client)
	})
	c, err := net.Dial("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c.(*net.TCPConn)
}

// serveTCP calls handle for each connection to the address that it returns.
func serveTCP(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go handle(c.(*net.TCPConn))
		}
	}()
	return l.Addr().String()
}

// echo sends lines back, and ends when its client does.
func echo(c *net.TCPConn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
}

// wantEnd is the result of the next session that ends.
func (tn *tunnel) wantEnd(t *testing.T, orderly bool) {
	t.Helper()
	tn.wantEndWithin(t, orderly, patience)
}

func (tn *tunnel) wantEndWithin(t *testing.T, orderly bool, patience time.Duration) {
	t.Helper()
	select {
	case r := <-tn.ends:
		if (r.Err == nil) != orderly {
			t.Errorf("the session ended as %+v, in order: want %t", r, orderly)
		}
	case <-time.After(patience):
		t.Error("the session does not end")
	}
}

// run starts a program of this machine.
func run(t *testing.T, name string, args ...string) *process {
	t.Helper()
	runtime.LockOSThread() // the program dies with the thread that has started it
	t.Cleanup(runtime.UnlockOSThread)
	return startBy(t, (*exec.Cmd).Start, name, args...)
}

// freePort is a port that a program may listen on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// framings are options of s_client and s_server that change how they cut and pad records. Those of the handshake are
// padded, too, and more than 9 KiB of a client's and 24 KiB of a server's are refused.
var framings = [][]string{
	nil, {"-record_padding", "4096"}, {"-record_padding", "77"}, {"-max_send_frag", "512"}, {"-max_send_frag", "512", "-split_send_frag", "512", "-record_padding", "512"},
}

// payload is more than a record of text without lines.
var payload = strings.Repeat("0123456789abcdef", 3000)

// rekeys is how often a peer renews its keys on one connection, without much data: more than a lifetime had once.
const rekeys = 40

// between is how long it takes openssl and gnutls-cli at most to read a command. They take one from one read, and not
// all of them say that they have.
const between = 50 * time.Millisecond

// rekey has openssl renew keys between lines, each of which comes back.
func rekey(t *testing.T, p *process, reply func(i int)) {
	t.Helper()
	for i := range rekeys {
		command := "K"
		if i%4 == 3 {
			command = "k" // without a request
		}
		p.say(t, command+"\n")
		time.Sleep(between)
		reply(i)
	}
}

// awaitCount waits until the program has printed the text so often.
func awaitCount(t *testing.T, p *process, text string, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); strings.Count(p.out.String(), text) < n; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s printed %q %d times, want %d:\n%s", p.name, text, strings.Count(p.out.String(), text), n, p.out.String())
		}
	}
}

func (tn *tunnel) testOpenSSLClient(t *testing.T) {
	openssl := installed(t, "openssl", "openssl")
	port := tn.inbound(t, echo)
	t.Run("rekeys", func(t *testing.T) {
		p := run(t, openssl, "s_client", "-connect", port, "-tls1_3")
		p.await(t, "Verify return code")
		rekey(t, p, func(i int) {
			awaitCount(t, p, "KEYUPDATE", i+1)
			line := fmt.Sprintf("line %d\n", i)
			p.say(t, line)
			p.await(t, line)
		})
		p.say(t, "Q\n")
		p.wait(t)
		tn.wantEnd(t, true)
	})
	for _, framing := range framings {
		t.Run(strings.Join(append([]string{"framing"}, framing...), " "), func(t *testing.T) {
			p := run(t, openssl, append([]string{"s_client", "-connect", port, "-tls1_3", "-quiet", "-no_ign_eof"}, framing...)...)
			p.say(t, payload+" end\n")
			p.await(t, payload+" end\n")
			_ = p.stdin.Close()
			p.wait(t)
			tn.wantEnd(t, true)
		})
	}
	t.Run("is killed", func(t *testing.T) {
		p := run(t, openssl, "s_client", "-connect", port, "-tls1_3", "-quiet")
		p.say(t, "hello\n")
		p.await(t, "hello\n")
		p.end()
		tn.wantEnd(t, false) // no close_notify: the stream may be cut
	})
}

// server starts a foreign server with our certificate, and returns its address.
func (tn *tunnel) server(t *testing.T, ready string, args func(port string) []string) (*process, string) {
	t.Helper()
	port := freePort(t)
	line := args(port)
	p := run(t, line[0], line[1:]...)
	p.await(t, ready)
	return p, "127.0.0.1:" + port
}

func (tn *tunnel) testOpenSSLServer(t *testing.T) {
	openssl := installed(t, "openssl", "openssl")
	start := func(t *testing.T, more ...string) (*process, string) {
		return tn.server(t, "ACCEPT", func(port string) []string {
			return append([]string{openssl, "s_server", "-accept", "127.0.0.1:" + port, "-cert", tn.file("cert.pem"), "-key", tn.file("key.pem"), "-tls1_3"}, more...)
		})
	}
	t.Run("rekeys", func(t *testing.T) {
		p, at := start(t)
		app := tn.outbound(t, at)
		say := func(text string) {
			if _, err := io.WriteString(app, text); err != nil {
				t.Fatal(err)
			}
			p.await(t, text)
		}
		say("hello\n")
		in := bufio.NewReader(app)
		rekey(t, p, func(i int) {
			say(fmt.Sprintf("line %d\n", i))
			p.say(t, fmt.Sprintf("answer %d\n", i))
			if line, err := in.ReadString('\n'); err != nil || line != fmt.Sprintf("answer %d\n", i) {
				t.Fatalf("the app reads %q, %v", line, err)
			}
		})
		_ = app.CloseWrite()
		tn.wantEnd(t, true)
	})
	for _, framing := range framings {
		if slices.Contains(framing, "16384") {
			continue // the flights of its handshake would be too large
		}
		t.Run(strings.Join(append([]string{"framing"}, framing...), " "), func(t *testing.T) {
			_, at := start(t, append([]string{"-rev"}, framing...)...)
			app := tn.outbound(t, at)
			fmt.Fprintf(app, "%s\n", payload[:10_000])
			line, err := bufio.NewReader(app).ReadString('\n')
			if err != nil || len(line) != 10_001 {
				t.Errorf("the app reads %d bytes, %v", len(line), err)
			}
			fmt.Fprintln(app, "CLOSE")
			if rest, err := io.ReadAll(app); err != nil || len(rest) > 0 {
				t.Errorf("the server ends: the app sees %q, %v", rest, err)
			}
			_ = app.CloseWrite()
			tn.wantEnd(t, true)
		})
	}
}

// testGo: crypto/tls, both ways, with much data at once.
func (tn *tunnel) testGo(t *testing.T) {
	want := bytes.Repeat([]byte("go"), 5<<20)
	sum := sha256.Sum256(want)
	c, err := tls.Dial("tcp", tn.inbound(t, echo), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { _, _ = c.Write(want); _ = c.CloseWrite() }()
	if got, err := io.ReadAll(c); err != nil || sha256.Sum256(got) != sum {
		t.Errorf("a client gets %d bytes back, %v", len(got), err)
	}
	tn.wantEnd(t, true)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{tn.leaf}}) // it sends tickets
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}()
	app := tn.outbound(t, l.Addr().String())
	go func() { _, _ = app.Write(want); _ = app.CloseWrite() }()
	if got, err := io.ReadAll(app); err != nil || sha256.Sum256(got) != sum {
		t.Errorf("a server sends %d bytes back, %v", len(got), err)
	}
	tn.wantEnd(t, true)
}
