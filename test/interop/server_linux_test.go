package interop

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/lab"
)

// servePort is where foreign servers listen: the target port of web's Service.
const servePort = 8080

// serve starts a foreign server outside the mesh that shows a member's leaf, wants a client certificate of the mesh,
// and sends each line back with its characters reversed. It returns a check, to be called after a connection, that the
// server knows its client to be api.
type serve func(t *testing.T, m *mesh, as *member) (knowsClient func(*testing.T))

// testServers dials web's Service from the api's pod, as its app would; our proxy there finds each server in turn,
// which passes for web, and then one that has only the certificate of another workload.
func (m *mesh) testServers(t *testing.T) {
	addresses := []netip.AddrPort{m.service("acme-web", 80), netip.AddrPortFrom(m.outside.IP4, servePort)}
	// nginx answers a close_notify by closing without one of its own, against RFC 8446, section 6.1, and so does
	// ghostunnel while a write is under way. To an app that ended first this is a reset: a stream cut short must not
	// look complete.
	cut := error(syscall.ECONNRESET)
	for name, c := range map[string]struct {
		serve serve
		left  []error // what an app may see that ended first
	}{
		"openssl s_server": {serveOpenSSL, []error{nil}}, "go-spiffe": {serveSPIFFE, []error{nil}},
		"nginx": {serveNginx, []error{cut}}, "ghostunnel": {serveGhostunnel, []error{nil, cut}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("the workload", func(t *testing.T) {
				knowsClient := c.serve(t, m, m.web)
				wire := m.Capture(m.outside.Pod)
				for _, at := range addresses {
					if err := m.talk(t, at, sayClose); err != nil {
						t.Errorf("%s ends by itself: the app sees %v, want an orderly end", at, err)
					}
					err := m.talk(t, at, (*net.TCPConn).CloseWrite)
					if !slices.ContainsFunc(c.left, func(want error) bool { return errors.Is(err, want) }) {
						t.Errorf("%s is left by its client: the app sees %v, want one of %v", at, err, c.left)
					}
				}
				wire.Stop()
				if wire.Contains([]byte("secret of the shop")) || len(wire.Streams(servePort, 4)) == 0 {
					t.Errorf("of %d streams of the server one shows the secret, or none was seen", len(wire.Streams(servePort, 4)))
				}
				knowsClient(t)
			})
			t.Run("another workload", func(t *testing.T) {
				c.serve(t, m, m.db)
				for _, at := range addresses {
					logged := m.apiProxyLogs(fmt.Sprintf("%s answers at %s", m.db.id, at))
					answer, err := m.exchange(t, at, "secret of the shop")
					lab.WantRefused(t, "client of a wrong server at "+at.String(), answer, err)
					logged(t)
				}
			})
		})
	}
}

// talk sends a line from the api's pod, wants it back reversed, ends the conversation and returns how that looked to
// the app: nil is an orderly end.
func (m *mesh) talk(t *testing.T, to netip.AddrPort, end func(*net.TCPConn) error) error {
	t.Helper()
	conn := m.apiPod.mustDial(t, to).(*net.TCPConn)
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, "secret of the shop"); err != nil {
		t.Error(err)
	}
	in := bufio.NewReader(conn)
	if answer, err := in.ReadString('\n'); err != nil || answer != "pohs eht fo terces\n" {
		t.Errorf("%s answers %q, %v", to, answer, err)
	}
	if err := end(conn); err != nil {
		t.Error(err)
	}
	rest, err := io.ReadAll(in)
	if len(rest) > 0 {
		t.Errorf("%s says %q after the end", to, rest)
	}
	return err
}

// sayClose lets the server end.
func sayClose(conn *net.TCPConn) error {
	_, err := fmt.Fprintln(conn, "CLOSE")
	return err
}

// exchange sends a line from the api's pod and returns the line that comes back.
func (m *mesh) exchange(t *testing.T, to netip.AddrPort, line string) (string, error) {
	t.Helper()
	conn, err := m.apiPod.dial(t, to)
	if err != nil { // our proxy may reset before the app knows that it is connected
		return "", err
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

// apiProxyLogs returns a wait for the proxy of the api's pod to log the text once more than by now.
func (m *mesh) apiProxyLogs(text string) func(*testing.T) {
	proxy := m.apiPod.Container(api.ProxyName)
	before := strings.Count(proxy.Log(), text)
	return func(t *testing.T) {
		t.Helper()
		for deadline := time.Now().Add(patience); strings.Count(proxy.Log(), text) == before; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the proxy has logged no %q", text)
			}
		}
	}
}

// testOwnProtocol: a server that insists on an application protocol of its own ends the handshake (RFC 7301, section
// 3.2), since our proxy offers only its own. It is refused for that reason, which the log tells, and the app is not
// left waiting.
func (m *mesh) testOwnProtocol(t *testing.T) {
	m.sServer(t, m.web, "-rev", "-alpn", "http/1.1")
	logged := m.apiProxyLogs("no application protocol")
	answer, err := m.exchange(t, m.service("acme-web", 80), "secret of the shop")
	lab.WantRefused(t, "client of a server with another ALPN", answer, err)
	logged(t)
}

// serveOpenSSL has s_server verify the client and end the handshake if that fails; -rev is its line mode.
func serveOpenSSL(t *testing.T, m *mesh, as *member) func(*testing.T) {
	t.Helper()
	server := m.sServer(t, as, "-rev")
	return func(t *testing.T) {
		if printed := server.out.String(); !strings.Contains(printed, "Protocol version: TLSv1.3") || !strings.Contains(printed, "Verification: OK") {
			t.Errorf("s_server has not verified its client:\n%s", printed)
		}
	}
}

func (m *mesh) sServer(t *testing.T, as *member, mode ...string) *process {
	t.Helper()
	args := []string{"s_server", "-4", "-accept", fmt.Sprint(servePort), "-cert", as.cert, "-key", as.key,
		"-CAfile", m.bundle, "-no-CApath", "-no-CAstore", "-Verify", "1", "-verify_return_error"}
	server := m.outside.start(t, installed(t, "openssl", "openssl"), append(args, mode...)...)
	server.await(t, "ACCEPT")
	return server
}

func serveNginx(t *testing.T, m *mesh, as *member) func(*testing.T) {
	t.Helper()
	app, log := m.reverser(t), filepath.Join(t.TempDir(), "access.log")
	m.startNginx(t, fmt.Sprintf("127.0.0.1:%d", servePort), fmt.Sprintf(`  server {
    listen %d ssl;
    ssl_preread off;
    ssl_protocols TLSv1.3;
    ssl_certificate %s;
    ssl_certificate_key %s;
    ssl_client_certificate %s;
    ssl_verify_client on;
    access_log %s peer;
    proxy_pass %s;
  }`, servePort, as.cert, as.key, m.bundle, log, app))
	return func(t *testing.T) {
		want := "SUCCESS " + serial(m.api.leaf.Leaf.SerialNumber) + " TLSv1.3"
		var text []byte
		for deadline := time.Now().Add(patience); !strings.Contains(string(text), want); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("nginx has logged no %q:\n%s", want, text)
			}
			text, _ = os.ReadFile(log) // which may not be there yet
		}
	}
}

// serial is a serial number as OpenSSL prints it: whole bytes.
func serial(n *big.Int) string { return fmt.Sprintf("%X", n.Bytes()) }

// serveGhostunnel lets nobody but api in, by URI.
func serveGhostunnel(t *testing.T, m *mesh, as *member) func(*testing.T) {
	t.Helper()
	server := m.outside.start(t, ghostunnel(t), "server", "--listen", fmt.Sprintf("0.0.0.0:%d", servePort), "--target", m.reverser(t), "--cert", as.cert,
		"--key", as.key, "--cacert", m.bundle, "--allow-uri", m.api.id)
	server.awaitPort(t, m.outside, fmt.Sprintf("127.0.0.1:%d", servePort))
	return func(*testing.T) {} // it has answered: it knows
}

func serveSPIFFE(t *testing.T, m *mesh, as *member) func(*testing.T) {
	t.Helper()
	config := tlsconfig.MTLSServerConfig(spiffeSVID(t, as), m.spiffeBundle(t), tlsconfig.AuthorizeID(m.api.spiffeID()))
	reverse(tls.NewListener(m.outside.listen(t, fmt.Sprintf("0.0.0.0:%d", servePort)), config))
	return func(*testing.T) {} // it has answered: it knows
}

// reverser is the address of an app behind a server that only terminates TLS.
func (m *mesh) reverser(t *testing.T) string {
	t.Helper()
	listener := m.outside.listen(t, "127.0.0.1:0")
	reverse(listener)
	return listener.Addr().String()
}

// reverse serves until the listener is closed: each line comes back reversed, and CLOSE ends the connection, as with
// s_server -rev.
func reverse(listener net.Listener) {
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				for lines := bufio.NewScanner(conn); lines.Scan() && lines.Text() != "CLOSE"; {
					line := []byte(lines.Text())
					slices.Reverse(line)
					fmt.Fprintf(conn, "%s\n", line)
				}
			}()
		}
	}()
}

// testCurlToOpenSSL runs curl as an app of the mesh: it speaks plain HTTP, and what arrives at s_server is mutual TLS.
func (m *mesh) testCurlToOpenSSL(t *testing.T) {
	m.sServer(t, m.web, "-www")
	url := "http://" + m.service("acme-web", 80).String() + "/"
	code, page := m.apiPod.start(t, installed(t, "curl", "curl"), "-q", "--silent", "--show-error", "--fail", "--max-time", "10", url).wait(t)
	if code != 0 || !strings.Contains(page, "New, TLSv1.3") || !strings.Contains(page, m.api.id) {
		t.Errorf("curl %s: exit code %d, want s_server's page with the client's certificate:\n%s", url, code, page)
	}
}
