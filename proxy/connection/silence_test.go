package connection

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
)

func TestSilences(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSilences(func() time.Time { return now })
	client := silenceKey{netip.MustParseAddr("10.0.0.7"), 3306}
	for _, step := range []struct {
		name string
		do   func(silenceKey)
		wait time.Duration
		want time.Duration
	}{
		{"at first", func(silenceKey) {}, 0, unknownSilence},
		{"plaintext", s.plaintext, 0, plainSilence},
		{"is forgotten", func(silenceKey) {}, plainTime, unknownSilence},
		{"a late hello", s.overtaken, 0, longSilence},
		{"is forgotten soon", func(silenceKey) {}, overtakenTime, unknownSilence},
		{"a proved client", s.mutualTLS, 0, longSilence},
		{"behind whose address is another", s.plaintext, 0, longSilence},
		{"whose late hello says nothing new", s.overtaken, 2 * overtakenTime, longSilence},
		{"has gone", s.plaintext, mutualTime, unknownSilence},
		{"and the address is another's", s.plaintext, 0, plainSilence},
		{"until it proves who it is", s.mutualTLS, 0, longSilence},
	} {
		step.do(client)
		now = now.Add(step.wait)
		if got := s.patience(client); got != step.want {
			t.Errorf("%s: %v, want %v", step.name, got, step.want)
		}
	}
	for _, other := range []silenceKey{{client.client, 3307}, {netip.MustParseAddr("10.0.0.8"), 3306}} {
		if got := s.patience(other); got != unknownSilence {
			t.Errorf("%v is known from another: %v", other, got)
		}
	}
}

// TestSilencesAreBounded: a client with many addresses makes no memory grow, and what was known comes back.
func TestSilencesAreBounded(t *testing.T) {
	s := newSilences(time.Now)
	address := netip.MustParseAddr("fd00::")
	for range 2 * maxClients {
		address = address.Next()
		s.plaintext(silenceKey{address, 25})
	}
	if n := len(s.known); n > maxClients {
		t.Errorf("%d clients are remembered", n)
	}
	if s.patience(silenceKey{address, 25}) != plainSilence {
		t.Error("the newest is not known")
	}
}

// FuzzLooksLikeHello: each beginning of a hello looks like one, and what does not is none.
func FuzzLooksLikeHello(f *testing.F) {
	hello := helloOf(api.ALPN)
	for n := 1; n <= 6; n++ {
		f.Add(hello[:n])
	}
	f.Add([]byte{0x16, 1, 0, 1, 0x85, 0xa2}) // a login of MySQL, 278 bytes long
	f.Add([]byte("EHLO x\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		switch {
		case looksLikeHello(data[:min(6, len(data))]):
		case bytes.HasPrefix(hello, data[:min(6, len(data))]) && len(data) > 0:
			t.Errorf("the beginning of a hello is not seen: %x", data)
		case offersOurs(data):
			t.Errorf("a hello is not seen: %x", data)
		}
	})
}
