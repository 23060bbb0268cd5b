package connection

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// capture keeps what is written, and brings what it was given.
type capture struct {
	net.Conn // nil: everything that crypto/tls uses is below
	in       io.Reader
	out      bytes.Buffer
}

func (c *capture) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *capture) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *capture) Close() error                     { return nil }
func (c *capture) SetDeadline(time.Time) error      { return nil }
func (c *capture) SetReadDeadline(time.Time) error  { return nil }
func (c *capture) SetWriteDeadline(time.Time) error { return nil }

// helloOf is the first flight of a client of crypto/tls.
func helloOf(protocols ...string) []byte {
	c := &capture{in: bytes.NewReader(nil)}
	_ = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}).Handshake()
	return c.out.Bytes()
}

// records cuts the payload of the one record of a hello into records of n bytes (RFC 8446, section 5.1, allows that).
func records(hello []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(hello[5:], n) {
		out = append(append(out, hello[0], hello[1], hello[2], byte(len(part)>>8), byte(len(part))), part...)
	}
	return out
}

// offersOurs reads the bytes as a server of crypto/tls that sees all of them at once.
func offersOurs(data []byte) (ours bool) {
	stop := errors.New("seen enough")
	_ = tls.Server(&capture{in: bytes.NewReader(data)}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		ours = slices.Contains(h.SupportedProtos, api.ALPN)
		return nil, stop
	}}).Handshake()
	return ours
}

// socketPair is a TCP connection, for package net's own deadlines and half-close.
func socketPair(t testing.TB, l net.Listener) (client, server *net.TCPConn) {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// checkSniff sends data in pieces and checks everything that sniff promises: what it has read, and what is left, are
// together what was sent, and a hello is ours only if crypto/tls finds our ALPN in it.
func checkSniff(t *testing.T, l net.Listener, data []byte, piece int) telemetry.Detection {
	t.Helper()
	client, server := socketPair(t, l)
	defer server.Close()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		defer client.Close()
		for part := range slices.Chunk(data, piece) {
			if _, err := client.Write(part); err != nil {
				return
			}
		}
	}()
	prefix, what, err := sniff(server, time.Now().Add(longSilence), time.Now().Add(5*time.Second))
	if err != nil {
		t.Fatalf("sniff: %v", err)
	}
	_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
	rest, err := io.ReadAll(server)
	<-sent
	if err != nil {
		t.Fatalf("the rest: %v", err)
	}
	if got := append(bytes.Clone(prefix), rest...); !bytes.Equal(got, data) {
		t.Errorf("%d bytes were sent, %d came: %x, want %x", len(data), len(got), got, data)
	}
	if len(prefix) > maxHello {
		t.Errorf("%d bytes were read before the decision", len(prefix))
	}
	ours, want := what == telemetry.DetectedMutualTLS, offersOurs(data)
	if ours && !want || !ours && want && len(data) <= maxHello {
		t.Errorf("ours: %t, want %t", ours, want)
	}
	return what
}

func listener(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestSniffPieces: a hello is known by its content, however it is cut: into segments, into records, or both
// (CVE-2026-32305 was a proxy that took a hello in two records for one without a server name).
func TestSniffPieces(t *testing.T) {
	l := listener(t)
	mine, foreign := helloOf(api.ALPN), helloOf("h2", "http/1.1")
	for name, c := range map[string]struct {
		data []byte
		want telemetry.Detection
	}{
		"ours":           {mine, telemetry.DetectedMutualTLS},
		"ours and more":  {append(slices.Clone(mine), "early"...), telemetry.DetectedMutualTLS},
		"among others":   {helloOf("h2", api.ALPN, "x"), telemetry.DetectedMutualTLS},
		"another":        {foreign, telemetry.DetectedTLS},
		"no ALPN":        {helloOf(), telemetry.DetectedTLS},
		"nearly ours":    {helloOf(api.ALPN + "1"), telemetry.DetectedTLS},
		"other case":     {helloOf("MESHLESS/1"), telemetry.DetectedTLS},
		"nothing":        {nil, telemetry.DetectedNoData},
		"half":           {mine[:len(mine)/2], telemetry.DetectedPlaintext},
		"not the first":  {append([]byte("x"), mine...), telemetry.DetectedPlaintext},
		"alert first":    {append([]byte{21, 3, 3, 0, 2, 1, 0}, mine...), telemetry.DetectedPlaintext},
		"too large":      {append([]byte{22, 3, 1, 0xff, 0xff}, make([]byte, 80<<10)...), telemetry.DetectedPlaintext},
		"empty records":  {bytes.Repeat([]byte{22, 3, 1, 0, 0}, 100), telemetry.DetectedPlaintext},
		"endless hello":  {records(append([]byte{22, 3, 1, 0, 0, 1, 0, 0xff, 0xff}, make([]byte, 90<<10)...), 16000), telemetry.DetectedPlaintext},
		"tiny records":   {records(mine, 1), telemetry.DetectedMutualTLS},
		"uneven records": {records(mine, 7), telemetry.DetectedMutualTLS},
		"tiny, foreign":  {records(foreign, 1), telemetry.DetectedTLS},
	} {
		t.Run(name, func(t *testing.T) {
			for _, piece := range []int{1, 5, 512, 1 << 17} {
				if len(c.data)/piece > 4000 {
					continue
				}
				if got := checkSniff(t, l, c.data, piece); got != c.want {
					t.Errorf("in pieces of %d: %s, want %s", piece, got, c.want)
				}
			}
		})
	}
}

func FuzzSniff(f *testing.F) {
	l := listener(f)
	mine := helloOf(api.ALPN)
	for _, seed := range [][]byte{mine, helloOf("h2"), helloOf(), records(mine, 3), mine[:200], []byte("GET / HTTP/1.1\r\n\r\n"), {22}, {22, 3, 1, 0, 0}, {22, 3, 1, 0xff, 0xff}} {
		f.Add(seed, uint16(64))
	}
	f.Add(mine, uint16(1))
	f.Fuzz(func(t *testing.T, data []byte, piece uint16) {
		checkSniff(t, l, data, max(int(piece), 1, len(data)/64))
	})
}
