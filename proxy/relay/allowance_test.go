package relay_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/test/testca"
)

// TestHandshakeIsSmall: what a stranger sends beyond the certificates of a mesh is not even parsed. A server outside of
// the mesh gets through with more, as its certificate must be seen.
func TestHandshakeIsSmall(t *testing.T) {
	const kib = 1 << 10
	ca := testca.New(t, "cluster.local")
	leaf := ca.Issue(t, "spiffe://cluster.local/ns/prod/deployment/web")
	sized := func(size int) tls.Certificate {
		return ca.Issue(t, "spiffe://cluster.local/ns/prod/deployment/web", func(c *x509.Certificate) {
			for n := size - len(leaf.Leaf.Raw) - 64; n > 0; n -= 64 {
				c.DNSNames = append(c.DNSNames, fmt.Sprintf("%062d", n))
			}
		})
	}
	protocols := func(size int) (names []string) {
		for n := 0; n < size; n += 64 {
			names = append(names, fmt.Sprintf("%063d", n))
		}
		return names
	}
	for name, test := range map[string]struct {
		client, server tls.Certificate
		protocols      []string
		large          relay.Role // who finds the handshake too large
		fits           bool
	}{
		"ordinary":                    {client: leaf, server: leaf, fits: true},
		"largest chain of a client":   {client: sized(8 * kib), server: leaf, fits: true},
		"client with 10 KiB":          {client: sized(10 * kib), server: leaf, large: relay.Server},
		"hello of 6 KiB":              {client: leaf, server: leaf, protocols: protocols(5 * kib), fits: true},
		"hello of 13 KiB":             {client: leaf, server: leaf, protocols: protocols(13 * kib), large: relay.Server},
		"server outside, with 20 KiB": {client: leaf, server: sized(20 * kib), fits: true},
		"server with 30 KiB":          {client: leaf, server: sized(30 * kib), large: relay.Client},
	} {
		t.Run(name, func(t *testing.T) {
			var parsed [2]bool
			ours := func(at *bool) func(tls.ConnectionState) error {
				return func(tls.ConnectionState) error { *at = true; return nil }
			}
			client := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: test.protocols,
				Certificates: []tls.Certificate{test.client}, VerifyConnection: ours(&parsed[0])}
			server := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, ClientAuth: tls.RequireAnyClientCert,
				Certificates: []tls.Certificate{test.server}, VerifyConnection: ours(&parsed[1])}
			clientErr, serverErr := handshakes(t, client, server)
			switch {
			case test.fits && (clientErr != nil || serverErr != nil):
				t.Errorf("refused: client %v, server %v", clientErr, serverErr)
			case !test.fits && test.large == relay.Server && (!errors.Is(serverErr, relay.ErrLargeHandshake) || parsed[1]):
				t.Errorf("server: %v, parsed %t", serverErr, parsed[1])
			case !test.fits && test.large == relay.Client && (!errors.Is(clientErr, relay.ErrLargeHandshake) || parsed[0]):
				t.Errorf("client: %v, parsed %t", clientErr, parsed[0])
			}
		})
	}
}

// handshakes does one handshake, both ends by relay.Secure.
func handshakes(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	near, far := pair(t)
	deadline := time.Now().Add(10 * time.Second)
	done := make(chan struct{})
	end := func(c *net.TCPConn, role relay.Role, config *tls.Config) error {
		_, _, err := relay.Secure(c, nil, role, config, deadline, nil)
		if err != nil {
			c.Close()
		}
		return err
	}
	go func() {
		defer close(done)
		serverErr = end(far, relay.Server, server)
	}()
	clientErr = end(near, relay.Client, client)
	<-done
	return clientErr, serverErr
}
