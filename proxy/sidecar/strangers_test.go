package sidecar

import (
	"crypto/tls"
	"testing"

	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// TestStrangers: no stranger gets in, whatever they present, and a member does between them.
func TestStrangers(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	member := m.ca.Issue(t, proxytest.ID("client"))
	for _, stranger := range testca.Strangers(t, m.ca, proxytest.ID("client")) {
		config := m.tlsClient(tls.Certificate{})
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger.Chain, nil }
		if err := m.tlsExchange(t, config); err == nil {
			t.Errorf("%s gets in", stranger.Name)
		}
		if err := m.tlsExchange(t, m.tlsClient(member)); err != nil {
			t.Fatalf("after %s a member is kept out: %v", stranger.Name, err)
		}
	}
}
