package connection

import (
	"fmt"
	"io"
	"net"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// headerTimeout is for a header that fits into the socket's buffer; an app that does not read it is no reason to
// wait.
const headerTimeout = 5 * time.Second

// writeProxyHeader tells the app who the peer is, before the first byte of the connection: a PROXY protocol header of
// version 2 with the addresses that the peer used and, where TLS proved it, its SPIFFE ID
// (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt, section 2.2). What the peer itself sends comes after
// it, so no peer can write this header.
func writeProxyHeader(app io.Writer, c *telemetry.Connection) error {
	h := proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(c.Source), net.TCPAddrFromAddrPort(c.Destination))
	var err error
	if c.Peer != "" {
		err = h.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2Type(api.ProxyProtocolSPIFFEID), Value: []byte(c.Peer)}})
	}
	if err == nil {
		_, err = h.WriteTo(app)
	}
	if err != nil {
		return fmt.Errorf("PROXY protocol header: %w", err)
	}
	return nil
}
