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
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

const (
	// maxHello bounds what is read to find the end of a hello. Post-quantum key shares make one of 1.5 KiB or so.
	maxHello = 16 << 10
	// recordTypeHandshake is the first byte of a TLS connection (RFC 8446, section 5.1).
	recordTypeHandshake = 0x16
)

var (
	errHalfHello = errors.New("TLS hello did not arrive whole in time")
	errNotTLS    = errors.New("not TLS")
	// errOvertaken is a client of the mesh that was taken for one of a protocol in which the server speaks first.
	errOvertaken  = errors.New("the hello of mutual TLS came after the app's greeting: the client tries again, and is waited for")
	errLateHellos = errors.New("what may be a hello of mutual TLS came after the app's greeting, and as many as are read at once are there already")
)

// sniff reads the beginning of a connection to a Permissive or TLSPassthrough port and tells what it is: the first byte
// until noData, the rest of a hello until deadline. It returns what it has read, to be passed on. A TLS hello that
// offers our ALPN is for us, whatever else may be for the app. This chooses on ports where the operator allows both; it
// never relaxes mutual TLS.
func sniff(c *net.TCPConn, noData, deadline time.Time) (prefix []byte, what telemetry.Detection, err error) {
	if noData.After(deadline) {
		noData = deadline
	}
	_ = c.SetReadDeadline(noData)
	r := &replay{TCPConn: c, deadline: deadline}
	ours, isHello := parseHello(r)
	late, ended := errors.Is(r.err, os.ErrDeadlineExceeded), errors.Is(r.err, io.EOF)
	switch {
	case isHello && ours:
		return r.seen, telemetry.DetectedMutualTLS, nil
	case isHello:
		return r.seen, telemetry.DetectedTLS, nil
	case len(r.seen) == 0 && (late || ended):
		return nil, telemetry.DetectedNoData, nil // the server speaks first, or nothing is said at all
	case late:
		return nil, telemetry.DetectionFailed, errHalfHello // an app would make nothing of half a hello either
	case r.err != nil && !ended:
		return nil, telemetry.DetectionFailed, r.err
	}
	return r.seen, telemetry.DetectedPlaintext, nil
}

// sniffLate looks at what a client says to which the app has spoken already. It waits for it without a buffer, for as
// long as the connection lives, and returns what it has read, to be passed on: but for a hello of ours nothing is kept
// from the app, since it does now what it has agreed on with its client. What looks like a hello takes one of the slots
// while it is read, as it would have taken one of a handshake: who has sent it is a stranger, and may never end it. A
// deadline is over when it returns.
func sniffLate(c *net.TCPConn, slots listen.Semaphore) (prefix []byte, err error) {
	if !looksLikeHello(peekFirst(c)) {
		return nil, nil
	}
	if !slots.TryAcquire() {
		return nil, errLateHellos
	}
	defer slots.Release()
	defer c.SetReadDeadline(time.Time{})
	deadline := time.Now().Add(HandshakeTimeout)
	_ = c.SetReadDeadline(deadline)
	r := &replay{TCPConn: c, deadline: deadline}
	if ours, _ := parseHello(r); ours {
		return nil, errOvertaken
	}
	return r.seen, nil
}

// looksLikeHello tells whether bytes can be the first of a ClientHello: a record of type handshake and of version 3.x,
// whose message is of type client_hello (RFC 8446, sections 5.1 and 4). The packets of MySQL begin with their length,
// which may be the first byte of these.
func looksLikeHello(b []byte) bool {
	for i, want := range []func(byte) bool{
		func(v byte) bool { return v == recordTypeHandshake },
		func(v byte) bool { return v == 3 },
		func(v byte) bool { return v >= 1 && v <= 4 },
		func(byte) bool { return true }, func(byte) bool { return true }, // the length
		func(v byte) bool { return v == 1 },
	} {
		if i < len(b) && !want(b[i]) {
			return false
		}
	}
	return len(b) > 0
}

// parseHello lets crypto/tls read the hello, however it is split, and stops there.
func parseHello(r *replay) (ours, isHello bool) {
	stop := errors.New("seen enough")
	_ = tls.Server(r, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		ours, isHello = slices.Contains(hello.SupportedProtos, api.ALPN) || slices.Contains(hello.SupportedProtos, api.RenewALPN), true
		return nil, stop
	}}).Handshake()
	return ours, isHello
}

// replay keeps what is read and discards what is written, so that the connection can be served from its beginning.
type replay struct {
	*net.TCPConn
	seen     []byte
	deadline time.Time // for all that follows the first bytes
	err      error     // of the connection
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.seen) >= maxHello {
		return 0, errors.New("hello is too large")
	}
	n, err := r.TCPConn.Read(p[:min(len(p), maxHello-len(r.seen))])
	r.seen, r.err = append(r.seen, p[:n]...), err
	_ = r.SetReadDeadline(r.deadline)
	if err == nil && r.seen[0] != recordTypeHandshake {
		return 0, errNotTLS // at once: what is not TLS may be shorter than the header of a record
	}
	return n, err
}

func (r *replay) Write(p []byte) (int, error) { return len(p), nil }
