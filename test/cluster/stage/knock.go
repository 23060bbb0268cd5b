//go:build linux

package stage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
)

// Knock asks a pod's app over mutual TLS with a certificate, from outside of every pod. It returns the leaf that the
// server showed, and an error unless it answered.
func Knock(t *testing.T, pod Replica, certificate tls.Certificate) (*x509.Certificate, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var shown *x509.Certificate
	dialer := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{api.ALPN}, // the caller judges what is shown
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil },
		VerifyConnection: func(s tls.ConnectionState) error {
			shown = s.PeerCertificates[0]
			return nil
		},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(pod.IP, AppPort).String())
	if err != nil {
		return shown, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return shown, err
		}
	}
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		return shown, err
	}
	answer, err := io.ReadAll(conn)
	if len(answer) == 0 {
		return shown, errors.Join(errors.New("no byte of the app came"), err)
	}
	if !strings.HasPrefix(string(answer), "HTTP/1.0 200") && !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		return shown, errors.New("answered " + string(answer))
	}
	return shown, nil
}
