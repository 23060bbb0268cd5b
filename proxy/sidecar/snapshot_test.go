package sidecar

import (
	"runtime"
	"testing"
	"weak"

	"github.com/meshless-dev/meshless/test/proxytest"
)

// TestOldGenerationsAreFreed: a connection that lives through many generations must not keep the one of its beginning:
// with it go the key of a leaf that was replaced, and everything that this generation's memory of chains holds.
func TestOldGenerationsAreFreed(t *testing.T) {
	m := startMesh(t, echo)
	c := m.client.open(t, "hello")
	client, server := weak.Make(m.client.identity.Current()), weak.Make(m.server.identity.Current())
	m.clientFiles.Leaf = m.ca.Issue(t, proxytest.ID("client"))
	m.serverFiles.Leaf = m.ca.Issue(t, proxytest.ID("server"))
	m.client.publish(t, m.clientFiles.Sealed(t))
	m.server.publish(t, m.serverFiles.Sealed(t))
	if err := roundTrip(c, "again"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		runtime.GC()
	}
	if client.Value() != nil {
		t.Error("outbound: the old generation, its key included, is still in memory")
	}
	if server.Value() != nil {
		t.Error("inbound: the old generation, its key included, is still in memory")
	}
	// The control: without the connection they go.
	_ = c.Close()
	eventually(t, "the connections have ended", func() bool { return m.client.outbound.Active()+m.server.inbound.Active() == 0 })
	for range 3 {
		runtime.GC()
	}
	t.Log("without the connection: client is gone:", client.Value() == nil, "server is gone:", server.Value() == nil)
}
