package identity

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// Authorize decides about an identity that is already verified. Its error ends the handshake and is what the handshake
// returns.
type Authorize func(spiffeid.ID) error

// AuthorizeServer is Authorize for a server. Names are the DNS names of its certificate, which is verified as well.
type AuthorizeServer func(id spiffeid.ID, names []string) error

// groups are those of a key exchange that costs no more than that of every proxy. A peer chooses among them before it
// has proved anything, and P-521 would cost ten times as much, P-384 and its hybrid three times.
var groups = []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.X25519, tls.CurveP256}

// buildTLS makes the configurations of this generation. Everything is verified in VerifyConnection, which runs on every
// handshake; sessions are never resumed, since a resumed one would outlive its bundle (CVE-2025-68121 and its kin).
func (s *Snapshot) buildTLS() {
	base := &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		SessionTicketsDisabled:      true,
		CurvePreferences:            groups,
		DynamicRecordSizingDisabled: true, // small first records help browsers on slow links, not pods
		Time:                        s.now,
	}
	s.server = base.Clone()
	s.server.Certificates = []tls.Certificate{s.certificate}
	// RequireAnyClientCert: the chain is verified in VerifyConnection alone. ClientCAs only tells clients whom we
	// trust.
	s.server.ClientAuth = tls.RequireAnyClientCert
	s.server.ClientCAs = x509.NewCertPool()
	for _, b := range append([]*svid.Bundle{s.Bundle}, s.Trust.Foreign()...) {
		for _, ca := range b.Authorities() {
			s.server.ClientCAs.AddCert(ca)
		}
	}
	s.serverPlain = s.server.Clone()
	s.server.NextProtos = []string{api.ALPN}

	s.client = base.Clone()
	s.client.InsecureSkipVerify = true // names are SPIFFE IDs, which crypto/tls does not check: VerifyConnection does
	s.client.NextProtos = []string{api.ALPN}
}

// ServerConfig is for one handshake as a server. The peer is verified as a client of the mesh, then authorize decides.
// A client that does not offer our ALPN (curl, openssl) gets a configuration without protocols but with the same
// verification: the hello never decides about authentication.
func (s *Snapshot) ServerConfig(authorize Authorize) *tls.Config {
	verify := s.verifier(x509.ExtKeyUsageClientAuth, func(id spiffeid.ID, _ []string) error { return authorize(id) })
	outer := s.server.Clone()
	outer.VerifyConnection = verify
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, api.ALPN) {
			return nil, nil // outer itself
		}
		plain := s.serverPlain.Clone()
		if slices.Contains(hello.SupportedProtos, api.RenewALPN) {
			plain.NextProtos = []string{api.RenewALPN}
		}
		plain.VerifyConnection, plain.KeyLogWriter = verify, outer.KeyLogWriter
		return plain, nil
	}
	return outer
}

// ClientConfig is for one handshake as a client. The peer is verified as a server of the mesh, then authorize decides.
// Once the handshake is done, mutual tells whether the server asked who we are: one that does not would take anybody's
// connection for ours.
func (s *Snapshot) ClientConfig(authorize AuthorizeServer) (c *tls.Config, mutual *atomic.Bool) {
	mutual = new(atomic.Bool)
	c = s.client.Clone()
	c.VerifyConnection = s.verifier(x509.ExtKeyUsageServerAuth, authorize)
	// Always the one certificate there is, even if the server does not list its authority: then the server can say why
	// it refuses.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		mutual.Store(true)
		return &s.certificate, nil
	}
	return c, mutual
}

func (s *Snapshot) verifier(usage x509.ExtKeyUsage, authorize AuthorizeServer) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		id, err := s.VerifyPeer(state.PeerCertificates, usage)
		if err != nil {
			return err
		}
		return authorize(id, state.PeerCertificates[0].DNSNames)
	}
}
