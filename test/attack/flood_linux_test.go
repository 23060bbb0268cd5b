package attack

import (
	"context"
	"crypto/tls"
	"flag"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/program"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

var width = flag.Int("width", 64, "strangers at once, of BenchmarkFlood")

// BenchmarkFlood measures round trips on an established connection of a member while strangers of each kind flood the
// proxy. The first kind is the ordinary one: what the others are compared with. Strangers and member share the
// processors with the proxy.
func BenchmarkFlood(b *testing.B) {
	if os.Getuid() != 0 {
		program.Missing(b, "root, to make a cgroup")
	}
	s := besiege(b, 256<<20)
	for _, kind := range testca.Strangers(b, s.ca, proxytest.ID("a")) {
		b.Run(kind.Name, func(b *testing.B) {
			c, err := s.client()
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			stop := s.flood(b, kind.Chain)
			defer stop()
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if err := trip(c); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// flood keeps handshakes of a stranger going until it is stopped.
func (b *besieged) flood(t testing.TB, chain tls.Certificate) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{api.ALPN},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &chain, nil }}
	var work sync.WaitGroup
	for range *width {
		work.Go(func() {
			for ctx.Err() == nil {
				c, err := dialTCP("127.0.20.1", b.Inbound, 0, time.Now().Add(patience))
				if err != nil {
					continue
				}
				if conn := tls.Client(c, config); conn.Handshake() == nil {
					_, _ = conn.Read(make([]byte, 1)) // the alert
				}
				c.Close()
			}
		})
	}
	return func() { cancel(); work.Wait() }
}
