package interop

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/test/program"
)

// A JDK asks for new keys each time it has read or written 64 MiB, where 128 GiB are the default, and passes three such
// limits here.
const (
	jdkLimits = "jdk.tls.keyLimits=AES/GCM/NoPadding KeyUpdate 2^26, ChaCha20-Poly1305 KeyUpdate 2^26\n"
	jdkBytes  = 220 << 20
)

// java is the command that runs Records.java with those limits.
func (tn *tunnel) java(t *testing.T, args ...string) []string {
	t.Helper()
	if _, err := exec.LookPath("javac"); err != nil {
		program.Missing(t, "a JDK: apt-get install default-jdk-headless")
	}
	limits := tn.file("limits")
	if err := os.WriteFile(limits, []byte(jdkLimits), 0o600); err != nil {
		t.Fatal(err)
	}
	return append([]string{installed(t, "java", "default-jdk-headless"), "-Djava.security.properties=" + limits, "Records.java"}, args...)
}

// jdkApp is what Records.java does with a connection that it has accepted.
func jdkApp(c *net.TCPConn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(8 * patience))
	in := bufio.NewReaderSize(c, 256<<10)
	var command string
	var n int64
	if _, err := fmt.Fscanf(in, "%s %d\n", &command, &n); err != nil {
		return
	}
	h := sha256.New()
	switch command {
	case "halt":
		fmt.Fprint(c, "x")
	case "upload":
		_, _ = io.CopyN(h, in, n)
	case "download":
		_, _ = io.CopyN(io.MultiWriter(c, h), pattern{}, n)
	}
	if command != "halt" {
		fmt.Fprintf(c, "%x\n", h.Sum(nil))
		_ = c.CloseWrite()
	}
	_, _ = io.Copy(io.Discard, in)
}

// pattern has bytes without end.
type pattern struct{}

func (pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i * 7)
	}
	return len(p), nil
}

func (tn *tunnel) testJavaClient(t *testing.T) {
	_, port, _ := net.SplitHostPort(tn.inbound(t, jdkApp))
	for _, command := range []string{"upload", "download", "halt"} {
		t.Run(command, func(t *testing.T) {
			line := tn.java(t, "connect", port, command, fmt.Sprint(tn.jdkAmount(command == "download")))
			p := run(t, line[0], line[1:]...)
			tn.wantEndWithin(t, command != "halt", 8*patience)
			if command != "halt" {
				p.await(t, command+" is whole")
			}
		})
	}
}

// jdkAmount is how much goes one way. What crypto/tls sends to a JDK is cut at its first limit ("too many non-advancing
// records"), whoever uses it, so with those records less is sent (docs/proxy.md says so).
func (tn *tunnel) jdkAmount(weSend bool) int64 {
	if weSend && tn.records == relay.Standard {
		return 50 << 20
	}
	return jdkBytes
}

var listening = regexp.MustCompile(`listening on (\d+)\.`)

func (tn *tunnel) testJavaServer(t *testing.T) {
	for _, command := range []string{"upload", "download"} {
		t.Run(command, func(t *testing.T) {
			line := tn.java(t, "listen", tn.file("cert.pem"), tn.file("key.pem"))
			p := run(t, line[0], line[1:]...)
			p.await(t, ".")
			found := listening.FindStringSubmatch(p.out.String())
			if found == nil {
				t.Fatalf("the JDK prints:\n%s", p.out.String())
			}
			app := tn.outbound(t, "127.0.0.1:"+found[1])
			_ = app.SetDeadline(time.Now().Add(8 * patience))
			amount := tn.jdkAmount(command == "upload")
			fmt.Fprintf(app, "%s %d\n", command, amount)
			h, in := sha256.New(), bufio.NewReader(app)
			var err error
			if command == "upload" {
				_, err = io.CopyN(io.MultiWriter(app, h), pattern{}, amount)
			} else {
				_, err = io.CopyN(h, in, amount)
			}
			digest, readErr := in.ReadString('\n')
			if want := fmt.Sprintf("%x\n", h.Sum(nil)); err != nil || readErr != nil || digest != want {
				t.Errorf("%s: %v, %v; the digests are equal: %t\n%s", command, err, readErr, digest == want, p.out.String())
			}
			_ = app.CloseWrite()
			tn.wantEndWithin(t, true, patience)
		})
	}
}

func (tn *tunnel) testGnuTLSClient(t *testing.T) {
	cli := installed(t, "gnutls-cli", "gnutls-bin")
	_, port, _ := net.SplitHostPort(tn.inbound(t, echo))
	p := run(t, cli, "--insecure", "--no-ca-verification", "--inline-commands", "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3", "-p", port, "127.0.0.1")
	p.await(t, "Simple Client Mode")
	for i := range rekeys / 2 { // GnuTLS takes eight answers a second and no more
		p.say(t, "^rekey^\n")
		line := fmt.Sprintf("line %d\n", i)
		time.Sleep(4 * between)
		p.say(t, line)
		p.await(t, line)
	}
	_ = p.stdin.Close()
	p.wait(t)
	tn.wantEnd(t, true)
}

func (tn *tunnel) testGnuTLSServer(t *testing.T) {
	serv := installed(t, "gnutls-serv", "gnutls-bin")
	_, at := tn.server(t, "listening on IPv4", func(port string) []string {
		return []string{serv, "--echo", "--port", port, "--x509certfile", tn.file("cert.pem"), "--x509keyfile", tn.file("key.pem"), "--disable-client-cert",
			"--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3"}
	})
	app := tn.outbound(t, at)
	in := bufio.NewReader(app)
	for i := range 20 {
		want := append(bytes.Repeat([]byte("x"), 1+i*700), '\n')
		if _, err := app.Write(want); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(in, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("round %d: %q, %v", i, got[:min(20, len(got))], err)
		}
	}
	_ = app.CloseWrite()
	tn.wantEnd(t, true)
}
