package kernel

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/test/app/talk"
	"github.com/meshless-dev/meshless/test/lab"
)

// judge holds what was seen of a cell against what must be seen.
func (f *field) judge(t *testing.T, c cell, r result, seen sightings) {
	if c.expect() == turnedAway {
		f.judgeRefusal(t, c, r, seen)
	} else {
		f.judgeTalk(t, c, r, seen)
	}
	switch c.expect() {
	case encrypted:
		f.wantSilence(t, c)
		for _, p := range []*lab.Pod{f.dialer(c), f.server(c)} {
			wantTLS(t, c, p.Name, f.watches[p])
		}
	case plaintext: // the control: marks are found where they are
		for _, p := range []*lab.Pod{f.dialer(c), f.server(c)} {
			if !f.watches[p].Saw(talk.Mark(c.port)) {
				t.Errorf("the mark is not on the wire of %s", p.Name)
			}
		}
		if across := f.dialer(c) != f.server(c) && c.kind != headless; f.between.Saw(talk.Mark(c.port)) != across {
			t.Errorf("the mark is on the cable between the nodes: %v, want %v", !across, across)
		}
	case local:
		f.wantSilence(t, c)
		for p, w := range f.watches {
			if w.Touched(uint16(c.port)) {
				t.Errorf("packets are on the wire of %s", p.Name)
			}
			if seen.logged(p, c.port) {
				t.Errorf("it passed the proxy of %s", p.Name)
			}
		}
	}
}

// judgeTalk wants both halves to be well, once, and the app to see a peer from where the connection must come.
func (f *field) judgeTalk(t *testing.T, c cell, r result, seen sightings) {
	if r.err != nil {
		t.Errorf("client: after %d bytes: %v", r.received, r.err)
	}
	reports := seen.reports[c.port]
	if len(reports) != 2 || reports[0].Ended || !reports[1].Ended {
		t.Fatalf("the server reports %+v, want one connection that comes and ends", reports)
	}
	if ended := reports[1]; ended.Error != "" || ended.Received == 0 {
		t.Errorf("server: after %d bytes: %s", ended.Received, ended.Error)
	}
	if f.wantsLog(c) && !seen.logged(f.dialer(c), c.port) {
		t.Error("the client's proxy knows nothing of it")
	}
	peer, err := netip.ParseAddrPort(reports[1].Peer)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := peer.Addr().Unmap(), f.peerAddrs(c); !want.Contains(got) {
		t.Errorf("the app's peer is %s, want %s", got, want)
	}
}

// peerAddrs are whom the app may take for its peer: an address that its proxy gave the client, or whoever reaches it
// without.
func (f *field) peerAddrs(c cell) netip.Prefix {
	loopback := map[int]netip.Addr{4: netip.MustParseAddr("127.0.0.1"), 6: netip.IPv6Loopback()}
	only := func(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
	switch {
	case c.kind == localhost:
		return only(loopback[c.family])
	case c.kind == ownIP:
		return only(f.server(c).IP(c.family))
	case c.mode == strict, c.mode == permissive:
		return clientaddr.Default.Of(f.server(c).IP(c.family))
	case c.kind == ownVIP: // the node has given it another source, or the pod would drop its own address from outside
		return only(f.second.IP(c.family))
	}
	return only(f.dialer(c).IP(c.family))
}

// judgeRefusal wants the client told no, with not a byte of the app, and the app not to have noticed: it was not even
// dialed.
func (f *field) judgeRefusal(t *testing.T, c cell, r result, seen sightings) {
	var netErr net.Error
	switch {
	case r.err == nil || r.received > 0:
		t.Errorf("the client got %d bytes, %v", r.received, r.err)
	case errors.As(r.err, &netErr) && netErr.Timeout():
		t.Errorf("the client was left waiting: %v", r.err)
	}
	if reports := seen.reports[c.port]; len(reports) > 0 {
		t.Errorf("the app has seen %+v", reports)
	}
	if !f.watches[f.server(c)].Touched(uint16(c.port)) {
		t.Error("the control: no packet has come to the server's wire, so that nobody there refused it")
	}
	if !seen.logged(f.server(c), c.port) {
		t.Error("the server's proxy has logged no refusal")
	}
}

// wantSilence wants the mark on no wire at all.
func (f *field) wantSilence(t *testing.T, c cell) {
	for p, w := range f.watches {
		if w.Saw(talk.Mark(c.port)) {
			t.Errorf("the mark passed in the clear at %s", p.Name)
		}
	}
	if f.between.Saw(talk.Mark(c.port)) {
		t.Error("the mark passed in the clear between the nodes")
	}
}

// wantTLS wants every stream from the cell's port to begin with a ServerHello of TLS 1.3 that chose the hybrid key
// exchange, and one at least.
func wantTLS(t *testing.T, c cell, where string, w *lab.Watch) {
	streams := w.Heads(uint16(c.port))
	if len(streams) == 0 {
		t.Errorf("%s: no stream from the port", where)
	}
	for flow, sent := range streams {
		hello, err := lab.ParseServerHello(sent)
		if want := (lab.ServerHello{Version: 0x0304, Group: 0x11ec}); err != nil || hello != want || flow.From.Addr().Is4() != (c.family == 4) {
			t.Errorf("%s: %v: ServerHello is %x (%v), want TLS 1.3 with X25519MLKEM768 over IPv%d, %x", where, flow, hello, err, c.family, want)
		}
	}
}
