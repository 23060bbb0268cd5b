package sidecar

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// TestLateHalfHellos is an attack: strangers are silent until the app has spoken, then begin the longest hello that is
// read, and never end it. Each has a place of the relay by then, of which there are many, and no slot of a handshake.
func TestLateHalfHellos(t *testing.T) {
	noLeaks(t)
	b := budget.For(budget.Resources{})
	b.Handshakes = 8
	server := startPod(t, serverIP, startApp(t, greeter), workload(t, testca.New(t, proxytest.TrustDomain), "server", permissive).Sealed(t),
		func(o *Options) { o.Budget = &b })
	half := append([]byte{0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc}, make([]byte, 16_000)...)
	const strangers = 32
	var all []net.Conn
	for range strangers {
		all = append(all, dial(t, server.inboundAddr().String()))
	}
	for _, c := range all {
		if !greeted(t, c, 5*time.Second) {
			t.Fatal("no greeting")
		}
	}
	for _, c := range all {
		if _, err := c.Write(half); err != nil {
			t.Fatal(err)
		}
	}
	server.wantMetric(t, fmt.Sprintf(`meshless_connections_closed_total{direction="inbound",reason="detection_failed",security="plaintext"} %d`, strangers-b.Handshakes))
	other := dial(t, server.inboundAddr().String())
	if !greeted(t, other, 5*time.Second) {
		t.Fatal("no greeting beside the strangers")
	}
	if err := roundTrip(other, "EHLO x\r\n"); err != nil {
		t.Error(err)
	}
}
