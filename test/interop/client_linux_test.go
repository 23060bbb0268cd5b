package interop

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/meshless-dev/meshless/test/lab"
)

// testCurl asks the app behind our port as a script would.
func (m *mesh) testCurl(t *testing.T) {
	curl := installed(t, "curl", "curl")
	at := m.service("acme-api", 8080)
	ask := func(host string, more ...string) (int, string) {
		args := []string{"-q", "--silent", "--show-error", "--fail", "--max-time", "10", "--tlsv1.3", "--cacert", m.bundle, "--capath", m.dir + "/none",
			"--resolve", fmt.Sprintf("%s:%d:%s", host, at.Port(), at.Addr()), "--write-out", "%{http_code} %{ssl_verify_result} %{scheme}\n"}
		args = append(append(args, more...), fmt.Sprintf("https://%s:%d/healthz", host, at.Port()))
		return m.outside.start(t, curl, args...).wait(t)
	}
	us := []string{"--cert", m.web.cert, "--key", m.web.key}
	for _, host := range shortForms(m.api.host) {
		if code, printed := ask(host, us...); code != 0 || printed != "ok\n200 0 HTTPS\n" {
			t.Errorf("curl https://%s: exit code %d:\n%s", host, code, printed)
		}
	}
	code, printed := ask(m.api.host, append(us, "--http2")...) // offers h2 by ALPN, which nobody speaks here
	if code != 0 || !strings.HasSuffix(printed, "200 0 HTTPS\n") {
		t.Errorf("curl --http2: exit code %d:\n%s", code, printed)
	}
	if code, printed = ask(m.api.host); code == 0 || !strings.Contains(printed, "certificate required") || strings.Contains(printed, "ok\n") {
		t.Errorf("curl without a certificate: exit code %d:\n%s", code, printed)
	}
	if code, printed = ask(m.db.host, us...); code != 60 { // CURLE_PEER_FAILED_VERIFICATION
		t.Errorf("curl under another name: exit code %d, want 60:\n%s", code, printed)
	}
}

// connect opens a connection to a server of the mesh through a foreign program outside of it, as a member or, with nil,
// as nobody. The program accepts the server only if it is the member.
type connect func(t *testing.T, m *mesh, as *member, to netip.AddrPort, server *member) net.Conn

// testClients talks to the db through each program: it speaks first, and only api may connect.
func (m *mesh) testClients(t *testing.T) {
	at := netip.AddrPortFrom(m.dbPod.IP4, 5432)
	for name, connect := range map[string]connect{"nginx": connectNginx, "ghostunnel": connectGhostunnel, "go-spiffe": connectSPIFFE} {
		t.Run(name, func(t *testing.T) {
			t.Run("member", func(t *testing.T) {
				conn := connect(t, m, m.api, at, m.db)
				in := bufio.NewReader(conn)
				order := "order of " + name + " " + strings.Repeat("0123456789abcdef", 2048)
				for _, step := range []struct{ say, want string }{{"", "shop db"}, {"PUT " + order + "\n", "+ "}} {
					fmt.Fprint(conn, step.say)
					if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, step.want) {
						t.Fatalf("after %.20q the db answers %q, %v, want %q", step.say, line, err, step.want)
					}
				}
				fmt.Fprint(conn, "GET\n")
				for line := ""; line != order+"\n"; {
					var err error
					if line, err = in.ReadString('\n'); err != nil {
						t.Fatalf("the order does not come back: %v", err)
					}
				}
				if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Error(err)
				}
				if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 { // the db ends when its client has
					t.Errorf("the connection ends with %q, %v, want an orderly end", rest, err)
				}
			})
			for who, c := range map[string]struct{ as, server *member }{
				"member without permission": {m.web, m.db}, "no certificate": {nil, m.db}, "client that expects another server": {m.api, m.api},
			} {
				t.Run(who, func(t *testing.T) {
					answer, err := bufio.NewReader(connect(t, m, c.as, at, c.server)).ReadString('\n')
					lab.WantRefused(t, who, answer, err)
				})
			}
		})
	}
}

// nginxConfig runs one process in the foreground that keeps to its directory; %s are the module, the directory, twice,
// and the stream block.
const nginxConfig = `%s
daemon off;
master_process off;
pid %s/nginx.pid;
error_log stderr info;
events {}
stream {
  log_format peer "$ssl_client_verify $ssl_client_serial $ssl_protocol";
  access_log off;
%s
}
`

func (m *mesh) startNginx(t *testing.T, ready, stream string) {
	t.Helper()
	path, load := nginx(t)
	dir := t.TempDir()
	config := m.write(t, "nginx.conf", fmt.Appendf(nil, nginxConfig, load, dir, stream))
	m.outside.start(t, path, "-p", dir, "-e", "stderr", "-c", config).awaitPort(t, m.outside, ready)
}

func connectNginx(t *testing.T, m *mesh, as *member, to netip.AddrPort, server *member) net.Conn {
	t.Helper()
	local := netip.MustParseAddrPort("127.0.0.1:9001")
	config := fmt.Sprintf(`  server {
    listen %s;
    ssl_preread off;
    proxy_pass %s;
    proxy_ssl on;
    proxy_ssl_protocols TLSv1.3;
    proxy_ssl_trusted_certificate %s;
    proxy_ssl_verify on;
    proxy_ssl_name %s;
    proxy_ssl_server_name on;
`, local, to, m.bundle, server.host)
	if as != nil {
		config += fmt.Sprintf("    proxy_ssl_certificate %s;\n    proxy_ssl_certificate_key %s;\n", as.cert, as.key)
	}
	m.startNginx(t, local.String(), config+"  }")
	return m.outside.mustDial(t, local)
}

func connectGhostunnel(t *testing.T, m *mesh, as *member, to netip.AddrPort, server *member) net.Conn {
	t.Helper()
	local := netip.MustParseAddrPort("127.0.0.1:9002")
	args := []string{"client", "--listen", local.String(), "--target", to.String(), "--cacert", m.bundle,
		"--override-server-name", server.host, "--verify-uri", server.id}
	if as != nil {
		args = append(args, "--cert", as.cert, "--key", as.key)
	} else {
		args = append(args, "--disable-authentication")
	}
	m.outside.start(t, ghostunnel(t), args...).awaitPort(t, m.outside, local.String())
	return m.outside.mustDial(t, local)
}

func connectSPIFFE(t *testing.T, m *mesh, as *member, to netip.AddrPort, server *member) net.Conn {
	t.Helper()
	bundle, authorize := m.spiffeBundle(t), tlsconfig.AuthorizeID(server.spiffeID())
	config := tlsconfig.TLSClientConfig(bundle, authorize)
	if as != nil {
		config = tlsconfig.MTLSClientConfig(spiffeSVID(t, as), bundle, authorize)
	}
	return tls.Client(m.outside.mustDial(t, to), config) // the handshake comes with the first read
}

func spiffeSVID(t *testing.T, who *member) *x509svid.SVID {
	t.Helper()
	s, err := x509svid.Load(who.cert, who.key)
	if err != nil {
		t.Fatal(err)
	}
	if s.ID.String() != who.id {
		t.Fatalf("go-spiffe reads the identity %s, want %s", s.ID, who.id)
	}
	return s
}

func (m *mesh) spiffeBundle(t *testing.T) *x509bundle.Bundle {
	t.Helper()
	b, err := x509bundle.Load(m.api.spiffeID().TrustDomain(), m.bundle)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
