package connection

import (
	"bufio"
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// FuzzProxyHeader: whatever the addresses and the identity are, the header reads back as what was meant, and ends where
// the peer's bytes begin.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1}, uint16(40000), []byte{10, 0, 0, 2}, uint16(5432), "spiffe://cluster.local/ns/prod/deployment/web")
	f.Add(netip.MustParseAddr("fd00::1").AsSlice(), uint16(1), netip.MustParseAddr("fd00::2").AsSlice(), uint16(65535), "")
	f.Add([]byte{10, 0, 0, 1}, uint16(1), netip.MustParseAddr("fd00::2").AsSlice(), uint16(2), "spiffe://td/\x00\r\n")
	f.Fuzz(func(t *testing.T, from []byte, fromPort uint16, to []byte, toPort uint16, peer string) {
		source, ok := netip.AddrFromSlice(from)
		destination, ok2 := netip.AddrFromSlice(to)
		if !ok || !ok2 || len(peer) > 2048 { // the longest SPIFFE ID
			t.Skip()
		}
		c := &telemetry.Connection{Source: netip.AddrPortFrom(source.Unmap(), fromPort), Destination: netip.AddrPortFrom(destination.Unmap(), toPort), Peer: peer}
		var header bytes.Buffer
		if err := writeProxyHeader(&header, c); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(strings.NewReader(header.String() + "rest"))
		got, err := proxyproto.Read(in)
		if err != nil || in.Buffered() != len("rest") {
			t.Fatalf("%x reads back as %v, %v with %d bytes behind", header.Bytes(), got, err, in.Buffered())
		}
		if got.SourceAddr.String() != c.Source.String() || got.DestinationAddr.String() != c.Destination.String() {
			t.Errorf("%s to %s reads back as %s to %s", c.Source, c.Destination, got.SourceAddr, got.DestinationAddr)
		}
		tlvs, err := got.TLVs()
		switch {
		case err != nil:
			t.Error(err)
		case peer == "" && len(tlvs) != 0:
			t.Errorf("without an identity the header has %v", tlvs)
		case peer != "" && (len(tlvs) != 1 || tlvs[0].Type != api.ProxyProtocolSPIFFEID || string(tlvs[0].Value) != peer):
			t.Errorf("%q reads back as %v", peer, tlvs)
		}
	})
}
