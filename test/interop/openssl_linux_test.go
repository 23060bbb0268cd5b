package interop

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
)

const request = "GET /healthz HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"

// testVerify lets openssl judge the certificates by RFC 5280 to the letter, for both sides of TLS and every name of the
// Service.
func (m *mesh) testVerify(t *testing.T) {
	openssl := installed(t, "openssl", "openssl")
	verify := func(args ...string) (int, string) {
		args = append([]string{"verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-CAfile", m.bundle}, args...)
		return m.outside.start(t, openssl, args...).wait(t)
	}
	for _, who := range []*member{m.api, m.db, m.web} {
		cases := [][]string{{}, {"-purpose", "sslserver"}, {"-purpose", "sslclient"}}
		for _, name := range shortForms(who.host) {
			cases = append(cases, []string{"-purpose", "sslserver", "-verify_hostname", name})
		}
		for _, args := range cases {
			if code, printed := verify(append(args, who.cert)...); code != 0 || !strings.Contains(printed, who.cert+": OK") {
				t.Errorf("openssl verify %q: exit code %d:\n%s", args, code, printed)
			}
		}
	}
	for _, name := range []string{m.db.host, bare(m.api.host)} {
		if code, printed := verify("-verify_hostname", name, m.api.cert); code == 0 {
			t.Errorf("%s passes as a name of %s\n%s", name, m.api.host, printed)
		}
	}
	if code, printed := verify("-purpose", "smimesign", m.api.cert); code == 0 {
		t.Errorf("a leaf passes for signing mail\n%s", printed)
	}
	for _, authority := range splitPEM(t, m.bundle) { // each is its own root
		path := m.write(t, filepath.Base(t.Name())+".authority.crt", []byte(authority))
		code, printed := m.outside.start(t, openssl, "verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-CAfile", path, path).wait(t)
		if code != 0 {
			t.Errorf("openssl verify of an authority: exit code %d:\n%s", code, printed)
		}
	}
}

// shortForms are the names of a Service in a certificate. The bare name is not among them: it means another Service in
// every namespace.
func shortForms(host string) []string {
	name := bare(host)
	return []string{host, name + "." + namespace + ".svc", name + "." + namespace}
}

func bare(host string) string {
	name, _, _ := strings.Cut(host, ".")
	return name
}

func splitPEM(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.SplitAfter(strings.TrimSpace(string(text))+"\n", "-----END CERTIFICATE-----\n")
	blocks = blocks[:len(blocks)-1]
	if len(blocks) < 2 {
		t.Fatalf("the bundle holds %d authorities, want the active one and the next", len(blocks))
	}
	return blocks
}

// sClient starts s_client from outside the mesh; as may be nil. It verifies the server under our bundle alone.
func (m *mesh) sClient(t *testing.T, as *member, to netip.AddrPort, server string, more ...string) *process {
	t.Helper()
	args := []string{"s_client", "-connect", to.String(), "-servername", server, "-CAfile", m.bundle, "-no-CApath", "-no-CAstore",
		"-verify", "1", "-verify_return_error", "-verify_hostname", server, "-nocommands"}
	if as != nil {
		args = append(args, "-cert", as.cert, "-key", as.key)
	}
	return m.outside.start(t, installed(t, "openssl", "openssl"), append(args, more...)...)
}

func (m *mesh) testOpenSSLClient(t *testing.T) {
	pod := netip.AddrPortFrom(m.apiPod.IP4, 8080)
	for _, c := range []struct {
		name, alpn string // what s_client offers
		to         netip.AddrPort
		want       string
	}{
		{"pod address without ALPN", "", pod, "No ALPN negotiated"},
		{"Service address without ALPN", "", m.service("acme-api", 8080), "No ALPN negotiated"},
		{"our ALPN", api.ALPN, pod, "ALPN protocol: " + api.ALPN},
		{"ours among others", "h2," + api.ALPN + ",http/1.1", pod, "ALPN protocol: " + api.ALPN},
		{"the ALPN of another", "http/1.1", pod, "No ALPN negotiated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			more := []string{"-ign_eof"}
			if c.alpn != "" {
				more = append(more, "-alpn", c.alpn)
			}
			client := m.sClient(t, m.web, c.to, m.api.host, more...)
			client.say(t, request)
			code, printed := client.wait(t) // the app closes: request asks for that
			for _, want := range []string{"200 OK", "New, TLSv1.3", "Verify return code: 0 (ok)", "Verified peername: " + m.api.host, c.want} {
				if !strings.Contains(printed, want) {
					t.Errorf("s_client printed no %q", want)
				}
			}
			if code != 0 || t.Failed() {
				t.Errorf("s_client: exit code %d:\n%s", code, printed)
			}
		})
	}
	for _, name := range shortForms(m.api.host) {
		client := m.sClient(t, m.web, pod, name, "-ign_eof")
		client.say(t, request)
		if code, printed := client.wait(t); code != 0 || !strings.Contains(printed, "200 OK") {
			t.Errorf("s_client -verify_hostname %s: exit code %d:\n%s", name, code, printed)
		}
	}
	t.Run("server speaks first", func(t *testing.T) {
		client := m.sClient(t, m.api, netip.AddrPortFrom(m.dbPod.IP4, 5432), m.db.host, "-quiet")
		client.await(t, "shop db")
		order := strings.Repeat("0123456789abcdef", 2048) // more than one TLS record
		client.say(t, "PUT "+order+"\nGET\n")
		client.await(t, order+"\n")
	})
}

// testOpenSSLClientRefused wants the alert that tells why (RFC 8446, section 6), and not a byte of the app.
func (m *mesh) testOpenSSLClientRefused(t *testing.T) {
	apiPod, dbPod := netip.AddrPortFrom(m.apiPod.IP4, 8080), netip.AddrPortFrom(m.dbPod.IP4, 5432)
	for _, c := range []struct {
		name   string
		as     *member
		to     netip.AddrPort
		server string
		more   []string
		want   string // of what OpenSSL prints
	}{
		{"TLS 1.2", m.web, apiPod, m.api.host, []string{"-tls1_2"}, "alert protocol version"},
		{"no certificate", nil, apiPod, m.api.host, nil, "alert certificate required"},
		{"no certificate, our ALPN", nil, apiPod, m.api.host, []string{"-alpn", api.ALPN}, "alert certificate required"},
		{"a member without permission", m.web, dbPod, m.db.host, nil, "alert"},
		{"another name", m.web, apiPod, m.db.host, nil, "hostname mismatch"},
		{"another Service, TLS 1.2 with our ALPN", m.web, dbPod, m.db.host, []string{"-tls1_2", "-alpn", api.ALPN}, "alert protocol version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := m.sClient(t, c.as, c.to, c.server, append(c.more, "-ign_eof")...)
			fmt.Fprint(client.stdin, request) // which fails where the client has ended already
			code, printed := client.wait(t)
			if code == 0 || !strings.Contains(printed, c.want) {
				t.Errorf("s_client: exit code %d, want an error with %q:\n%s", code, c.want, printed)
			}
			for _, leaked := range []string{"200 OK", "shop db"} {
				if strings.Contains(printed, leaked) {
					t.Errorf("s_client got through to the app: %q", leaked)
				}
			}
		})
	}
}
