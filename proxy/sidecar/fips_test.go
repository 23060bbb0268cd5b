package sidecar

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// What TLS 1.3 may use in Go's FIPS 140-3 mode: FIPS 197, SP 800-56A and FIPS 203. A hybrid is allowed for the half of
// it that is approved.
var (
	fipsSuites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384}
	fipsGroups = []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024, tls.CurveP256, tls.CurveP384, tls.CurveP521}
)

const (
	fipsVariable = "MESHLESS_TEST_FIPS" // a folder that the process in FIPS mode gets from the one that is not
	helloFile    = "hello"
)

// inFIPSMode runs the test again in a process that starts with GODEBUG=fips140=mode.
func inFIPSMode(t *testing.T, mode, folder string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	c.Env = append(os.Environ(), "GODEBUG=fips140="+mode, fipsVariable+"="+folder)
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Fatalf("with GODEBUG=fips140=%s: %v\n%s", mode, err, out)
	}
	t.Logf("with GODEBUG=fips140=%s:\n%s", mode, out)
}

// TestFIPS runs two proxies with sealed keys in the mode in which spec.proxy.fips140 starts them.
func TestFIPS(t *testing.T) {
	folder := os.Getenv(fipsVariable)
	if folder == "" { // the control: without the mode, a client of X25519 alone is welcome
		if fips140.Enabled() {
			t.Skip("needs a control without FIPS mode: set GODEBUG=fips140=off")
		}
		const handshake = 22
		folder, hello := t.TempDir(), helloOfX25519(t)
		m := startMesh(t, echo)
		if answer := m.answerTo(t, hello); len(answer) == 0 || answer[0] != handshake {
			t.Fatalf("without FIPS mode, X25519 is answered % x, want a handshake record", answer[:min(len(answer), 7)])
		}
		writeFiles(t, folder, proxytest.Files{helloFile: hello})
		inFIPSMode(t, "on", folder)
		return
	}
	if !fips140.Enabled() || fips140.Enforced() {
		t.Fatalf("FIPS mode is %t, enforced %t, want on and not enforced", fips140.Enabled(), fips140.Enforced())
	}
	m := startMesh(t, echo)
	if key, ok := m.serverFiles.Leaf.PrivateKey.(*ecdsa.PrivateKey); !ok || key.Curve != elliptic.P256() {
		t.Fatalf("the leaf's key is %T, want ECDSA on P-256", m.serverFiles.Leaf.PrivateKey)
	}
	if err := exchange(m.client.outboundAddr(), "through both proxies"); err != nil {
		t.Error(err)
	}
	for _, groups := range [][]tls.CurveID{nil, {tls.SecP256r1MLKEM768}, {tls.CurveP256}} {
		state := m.handshake(t, groups)
		t.Logf("module %s: %s, %s, %s", fips140.Version(), tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), state.CurveID)
		if state.Version != tls.VersionTLS13 || !slices.Contains(fipsSuites, state.CipherSuite) || !slices.Contains(fipsGroups, state.CurveID) ||
			groups != nil && state.CurveID != groups[0] {
			t.Errorf("a client of %v gets %s with %s and %s", groups, tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), state.CurveID)
		}
	}
	if suites := offeredSuites(t); len(suites) == 0 || slices.ContainsFunc(suites, func(s uint16) bool { return !slices.Contains(fipsSuites, s) }) {
		t.Errorf("as a client it offers %x, want of %x", suites, fipsSuites)
	}
	const alert, handshakeFailure = 21, 40 // RFC 8446, section 6
	if answer := m.answerTo(t, readFiles(t, folder)[helloFile]); len(answer) != 7 || answer[0] != alert || answer[6] != handshakeFailure {
		t.Errorf("a client of X25519 alone is answered % x, want the alert handshake_failure", answer)
	}
}

// handshake completes mutual TLS with the server's proxy, uses it, and tells what was agreed.
func (m *mesh) handshake(t *testing.T, groups []tls.CurveID) tls.ConnectionState {
	t.Helper()
	config := m.tlsClient(m.clientFiles.Leaf)
	config.CurvePreferences = groups
	c := tls.Client(dial(t, m.server.inboundAddr().String()), config)
	if err := roundTrip(c, "hello"); err != nil {
		t.Fatalf("with %v: %v", groups, err)
	}
	return c.ConnectionState()
}

// answerTo sends raw bytes to the server's proxy and reads what it sends before it waits or closes.
func (m *mesh) answerTo(t *testing.T, hello []byte) []byte {
	t.Helper()
	c := dial(t, m.server.inboundAddr().String())
	if _, err := c.Write(hello); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 4096)
	n, err := c.Read(answer)
	if err != nil {
		t.Fatalf("no answer to the hello: %v", err)
	}
	return answer[:n]
}

// helloOfX25519 is what a client sends that knows one group, which is not approved. It cannot be made in FIPS mode.
func helloOfX25519(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	client := tls.Client(near, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}, NextProtos: []string{api.ALPN}})
	ended := make(chan struct{})
	go func() { defer close(ended); _ = client.Handshake() }()
	_ = far.SetDeadline(time.Now().Add(10 * time.Second))
	hello := make([]byte, 4096)
	n, err := far.Read(hello)
	far.Close()
	<-ended
	if err != nil {
		t.Fatal(err)
	}
	return hello[:n]
}

// offeredSuites are the cipher suites in the hello of a TLS 1.3 client of this process.
func offeredSuites(t *testing.T) (suites []uint16) {
	t.Helper()
	near, far := net.Pipe()
	client := tls.Client(near, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	ended := make(chan struct{})
	go func() { defer close(ended); _ = client.Handshake() }()
	_ = far.SetDeadline(time.Now().Add(10 * time.Second))
	server := tls.Server(far, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		suites = hello.CipherSuites
		return nil, errors.New("seen enough")
	}})
	_ = server.Handshake()
	far.Close()
	<-ended
	return suites
}

// TestFIPSOnly shows what the stricter fips140=only does, which fails where fips140=on goes beyond the module: keys
// that age has sealed cannot be opened, keys that another party opens are used.
func TestFIPSOnly(t *testing.T) {
	folder := os.Getenv(fipsVariable)
	if folder == "" {
		folder := t.TempDir()
		ca := testca.New(t, proxytest.TrustDomain)
		server, client := workload(t, ca, "server", withServer("server")), workload(t, ca, "client", withServer("server"))
		for name, files := range map[string]proxytest.Files{"server": server.Plain(t), "client": client.Plain(t), "sealed": server.Sealed(t)} {
			writeFiles(t, filepath.Join(folder, name), files)
		}
		inFIPSMode(t, "only", folder)
		return
	}
	if !fips140.Enforced() {
		t.Fatal("FIPS mode is not enforced")
	}
	in := func(name string) proxytest.Files { return readFiles(t, filepath.Join(folder, name)) }
	server := startPod(t, serverIP, startApp(t, echo), in("server"))
	client := startPod(t, clientIP, netip.MustParseAddrPort(clientIP+":1"), in("client"))
	client.dials(server.inboundAddr())
	if err := exchange(client.outboundAddr(), "with keys that somebody else has opened"); err != nil {
		t.Error(err)
	}
	sealed := startPod(t, otherIP, netip.MustParseAddrPort(otherIP+":1"), nil)
	in("sealed").Publish(t, sealed.dir)
	eventually(t, "the sealed key is refused", func() bool {
		err := sealed.identity.Failure() // at first it is that there are no files
		return err != nil && (strings.HasPrefix(err.Error(), api.SealedKeyFile) || strings.HasPrefix(err.Error(), api.IdentityFile))
	})
	t.Logf("a sealed key: %v", sealed.identity.Failure())
	if sealed.Ready() == nil {
		t.Error("the proxy is ready with a key that it cannot have opened")
	}
}

func writeFiles(t *testing.T, folder string, files proxytest.Files) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func readFiles(t *testing.T, folder string) proxytest.Files {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%s holds %d files, %v", folder, len(entries), err)
	}
	files := proxytest.Files{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(folder, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}
