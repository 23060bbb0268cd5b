package connection

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/proxy/telemetry"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// cutOff forwards so many encrypted records of a server's flight.
type cutOff struct {
	net.Conn
	records int
}

func (c *cutOff) Write(p []byte) (int, error) {
	const header, encrypted = 5, 23
	for rest := p; len(rest) >= header; {
		size := header + int(rest[3])<<8 + int(rest[4])
		if rest[0] == encrypted {
			if c.records == 0 {
				return 0, errors.New("cut off")
			}
			c.records--
		}
		if _, err := c.Conn.Write(rest[:size]); err != nil {
			return 0, err
		}
		rest = rest[size:]
	}
	return len(p), nil
}

// TestShownToBeOfTheMesh: a server that has shown a certificate of the mesh, and closes each time before it has proved
// it, gets no plaintext. A proxy that is full or ends may do so.
func TestShownToBeOfTheMesh(t *testing.T) {
	l := newTrialLab(t, func(l *trialLab, c net.Conn, _ int) {
		first, hello := isHello(c)
		if !hello {
			_, _ = c.Write(first)
			return
		}
		// extensions, request, certificate
		_ = tls.Server(&cutOff{Conn: &rest{c, first}, records: 3}, serverOf(l, proxytest.ID("x"))).Handshake()
	})
	if got, err := l.say(); err == nil || l.leaked() {
		t.Errorf("the app got %q; the secret was on the wire: %t", got, l.leaked())
	}
	if got := l.metric("meshless_mutual_tls_trials_total"); got != string(telemetry.TrialFailed) {
		t.Errorf("the trial is %s", got)
	}
	if !strings.Contains(l.logs.String(), "connection refused") {
		t.Errorf("the log is %s", l.logs)
	}
}
