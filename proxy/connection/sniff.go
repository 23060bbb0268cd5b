package connection

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

const (
	// quietTimeout is how long a Permissive port waits for the first byte. A mesh client sends its hello at once, so
	// what is silent for longer, beyond two retransmissions, is a protocol in which the server speaks first: it passes
	// as plaintext.
	quietTimeout = 3 * time.Second
	// maxHello bounds what is read to find the end of a hello. Post-quantum key shares make one of 1.5 KiB or so.
	maxHello = 16 << 10
	// recordTypeHandshake is the first byte of a TLS connection (RFC 8446, section 5.1).
	recordTypeHandshake = 0x16
)

var errHalfHello = errors.New("TLS hello did not arrive whole in time")

// sniff reads the beginning of a connection to a Permissive port and tells what it is. It returns what it has read, for
// whoever serves the connection. Anything but a TLS hello that offers our ALPN is the app's own matter. This chooses
// between plaintext and mutual TLS on ports where the operator allows both; it never relaxes mutual TLS.
func sniff(c *net.TCPConn, deadline time.Time) (prefix []byte, what telemetry.Detection, err error) {
	quiet := time.Now().Add(quietTimeout)
	if quiet.After(deadline) {
		quiet = deadline
	}
	_ = c.SetReadDeadline(quiet)
	first := make([]byte, 1)
	switch _, err := io.ReadFull(c, first); {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF):
		return nil, telemetry.DetectedNoData, nil // the server speaks first, or nothing is said at all
	case err != nil:
		return nil, telemetry.DetectionFailed, err
	case first[0] != recordTypeHandshake:
		return first, telemetry.DetectedPlaintext, nil
	}
	_ = c.SetReadDeadline(deadline)
	r := &replay{TCPConn: c, seen: first, unread: 1}
	ours, isHello := parseHello(r)
	switch {
	case isHello && ours:
		return r.seen, telemetry.DetectedMutualTLS, nil
	case isHello:
		return r.seen, telemetry.DetectedTLS, nil
	case errors.Is(r.err, os.ErrDeadlineExceeded):
		return nil, telemetry.DetectionFailed, errHalfHello // an app would make nothing of half a hello either
	case r.err != nil && !errors.Is(r.err, io.EOF):
		return nil, telemetry.DetectionFailed, r.err
	}
	return r.seen, telemetry.DetectedPlaintext, nil
}

// parseHello lets crypto/tls read the hello, in whatever pieces it comes, and stops there.
func parseHello(r *replay) (ours, isHello bool) {
	stop := errors.New("seen enough")
	_ = tls.Server(r, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		ours, isHello = slices.Contains(hello.SupportedProtos, api.ALPN), true
		return nil, stop
	}}).Handshake()
	return ours, isHello
}

// replay keeps what is read and swallows what is written, so that the connection can be served as if nobody had
// looked.
type replay struct {
	*net.TCPConn
	seen   []byte
	unread int   // how much at the end of seen is still to be read
	err    error // of the connection
}

func (r *replay) Read(p []byte) (int, error) {
	if r.unread > 0 {
		n := copy(p, r.seen[len(r.seen)-r.unread:])
		r.unread -= n
		return n, nil
	}
	if len(r.seen) >= maxHello {
		return 0, errors.New("hello is too large")
	}
	n, err := r.TCPConn.Read(p[:min(len(p), maxHello-len(r.seen))])
	r.seen = append(r.seen, p[:n]...)
	if err != nil {
		r.err = err
	}
	return n, err
}

func (r *replay) Write(p []byte) (int, error) { return len(p), nil }
