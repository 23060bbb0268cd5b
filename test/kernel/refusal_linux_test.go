package kernel

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/testca"
)

const request = "GET /healthz HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"

// speak connects to a pod's port from p, by TLS where there is a config, sends the text and returns what comes back
// until the end.
func speak(t *testing.T, p *lab.Pod, to netip.AddrPort, config *tls.Config, text string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := p.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if config != nil {
		conn = tls.Client(conn, config)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	buffer := make([]byte, 4096)
	n, err := conn.Read(buffer)
	if n > 0 {
		err = nil
	}
	return string(buffer[:n]), err
}

// greeting is what a db says first.
func greeting(t *testing.T, p *lab.Pod, ip netip.Addr) (string, error) {
	t.Helper()
	return speak(t, p, netip.AddrPortFrom(ip, 5432), nil, "")
}

// client is the TLS config of a peer that cares for nothing but to get in. It shows its certificate even when the
// server lists other authorities: crypto/tls by itself would then show none.
func client(certificates ...tls.Certificate) *tls.Config {
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{api.ALPN}}
	if len(certificates) > 0 {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificates[0], nil }
	}
	return config
}

// testStrangers knocks at api's strict port with everything but a certificate of the mesh.
func (r *running) testStrangers(t *testing.T) {
	stranger := testca.New(t, "cluster.local").Issue(t, id("deployment/acme-api"))
	old := client(r.leaf(t, "deployment/acme-api"))
	old.MaxVersion = tls.VersionTLS12
	for _, family := range []int{4, 6} {
		for _, ip := range []netip.Addr{r.api.IP(family), r.ServiceIP("acme-shop", "acme-api", family)} {
			at := netip.AddrPortFrom(ip, 8080)
			for who, config := range map[string]*tls.Config{
				"plaintext client": nil, "client without certificate": client(), "client of another CA": client(stranger),
				"client of TLS 1.2": old,
			} {
				answer, err := speak(t, r.out, at, config, request)
				lab.WantRefused(t, who+" at "+at.String(), answer, err)
			}
			member := client(r.leaf(t, "deployment/acme-web"))
			if answer, err := speak(t, r.out, at, member, request); !strings.Contains(answer, "200 OK") {
				t.Errorf("the control, a certificate of the mesh, is refused at %s (%q, %v): this test could not fail", at, answer, err)
			}
		}
	}
}

// testPolicy asks the db, which only api may, with good certificates of others; by hand, and through their own proxies.
func (r *running) testPolicy(t *testing.T) {
	for _, family := range []int{4, 6} {
		db := netip.AddrPortFrom(r.db.IP(family), 5432)
		answer, err := speak(t, r.out, db, client(r.leaf(t, "deployment/acme-web")), "GET\n")
		lab.WantRefused(t, "certificate of web", answer, err)
		answer, err = greeting(t, r.web, r.db.IP(family))
		lab.WantRefused(t, "web through its proxy", answer, err)
		if answer, err := greeting(t, r.api, r.db.IP(family)); !strings.Contains(answer, "shop db") {
			t.Errorf("the control, api through its proxy, is refused: %q, %v", answer, err)
		}
	}
}

// testWrongServer lets web's Service address lead to api, a member with a good certificate that is not web.
func (r *running) testWrongServer(t *testing.T) {
	for _, family := range []int{4, 6} {
		ask := func() (string, error) {
			resp, err := r.db.HTTP().Get(r.webURL(family) + "healthz") // both web and api would answer that
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("status %s", resp.Status)
			}
			body, err := io.ReadAll(resp.Body)
			return string(body), err
		}
		r.Misdirect("acme-shop", "acme-web", r.api)
		answer, err := ask()
		lab.WantRefused(t, "a client of web led to api", answer, err)
		r.Misdirect("acme-shop", "acme-web", nil)
		if answer, err := ask(); answer != "ok\n" {
			t.Errorf("the control, web itself, answers %q, %v", answer, err)
		}
	}
}
