package relay_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/test/tlspeer"
)

// TestHalfCloseKeepsTheRest: the app has ended its direction, and the peer goes on, asking for new keys now and then.
// All of it arrives. crypto/tls alone loses what follows such a request: it cannot answer behind its close_notify, and
// then does not take the peer's new keys either.
func TestHalfCloseKeepsTheRest(t *testing.T) {
	ts := newTunnels(t)
	e := &exchange{ends: make(chan relay.Result, 1)}
	closeAll, err := e.connect(ts, relay.Server)
	defer closeAll()
	if err != nil {
		t.Fatal(err)
	}
	_ = e.app.CloseWrite()
	if _, alert, err := e.readPeer(); err != nil || alert != 0 {
		t.Fatalf("the peer reads alert %d, %v, want close_notify", alert, err)
	}
	var sent, wire []byte
	for i := range 40 {
		piece := bytes.Repeat([]byte{byte(i)}, 1000)
		sent = append(sent, piece...)
		wire = e.peer.Out.Record(wire, tlspeer.Data, piece, 0)
		if i%8 == 7 {
			wire = e.peer.Out.NewKeys(wire, 1)
		}
	}
	wire = e.peer.Out.Record(wire, tlspeer.Alert, []byte{1, 0}, 0)
	_ = e.wire.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := e.wire.Write(wire); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(e.app)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%s records: the app got %d of %d bytes, %v", ts.records.InForce(), len(got), len(sent), err)
	}
	if r := <-e.ends; r.Err != nil {
		t.Errorf("ended as %+v", r)
	}
}
