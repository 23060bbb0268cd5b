package record

import (
	"bytes"
	"crypto/tls"
	"errors"
	"testing"
)

// TestInterleaved: RFC 8446, section 5.1: between the records of one handshake message there must be no other record,
// of any type. crypto/tls refuses all three.
func TestInterleaved(t *testing.T) {
	for name, between := range map[string]func(*keys) []byte{
		"an empty record of data": func(k *keys) []byte { return k.seal(nil, nil, typeApplicationData) },
		"user_canceled":           func(k *keys) []byte { return k.seal(nil, []byte{1, byte(userCanceled)}, typeAlert) },
		"close_notify":            func(k *keys) []byte { return k.seal(nil, []byte{1, byte(closeNotify)}, typeAlert) },
	} {
		t.Run(name, func(t *testing.T) {
			in, out := twin(t, tls.TLS_AES_128_GCM_SHA256, false)
			stream := out.seal(nil, []byte{keyUpdate, 0}, typeHandshake)
			_, _, err := in.open(nil, append(stream, between(out)...))
			var local localError
			if !errors.As(err, &local) || tls.AlertError(local) != unexpectedMessage {
				t.Errorf("within a handshake message: got %v, want unexpected_message", err)
			}
		})
	}
}

// TestPlaintextInPieces: what is no record is refused at its first byte. "GET /" is the header of a record of 8 KiB,
// and who waits for the rest of that waits for ever.
func TestPlaintextInPieces(t *testing.T) {
	for _, piece := range []string{"G", "GE", "GET /"} {
		in, _ := twin(t, tls.TLS_AES_128_GCM_SHA256, false)
		if _, _, err := in.open(nil, []byte(piece)); !isAlert(err, unexpectedMessage) {
			t.Errorf("%q: %v, want unexpected_message", piece, err)
		}
		if missing := Missing([]byte(piece)); missing != 0 {
			t.Errorf("%q is said to lack %d bytes", piece, missing)
		}
	}
}

// TestPaddedTooLong: RFC 8446, section 5.4: the whole TLSInnerPlaintext must not exceed 2^14 + 1 bytes, padding
// included.
func TestPaddedTooLong(t *testing.T) {
	in, out := twin(t, tls.TLS_AES_128_GCM_SHA256, false)
	inner := append([]byte("x"), typeApplicationData)
	inner = append(inner, make([]byte, MaxPlaintext+200-len(inner))...)
	got, _, err := in.open(nil, out.seal(nil, inner, 0))
	var local localError
	if !errors.As(err, &local) || tls.AlertError(local) != recordOverflow {
		t.Errorf("an inner plaintext of %d bytes: got %q, %v, want record_overflow", len(inner)+1, got, err)
	}
}

// BenchmarkOpen compares what one buffer of 128 KiB can cost: the largest records and the smallest.
func BenchmarkOpen(b *testing.B) {
	const buffer = 128 << 10
	big := bytes.Repeat([]byte{1}, MaxPlaintext)
	for name, next := range map[string]func(*keys, []byte) []byte{
		"large records": func(k *keys, s []byte) []byte { return k.seal(s, big, typeApplicationData) },
		"small records": func(k *keys, s []byte) []byte { return k.seal(s, big[:1], typeApplicationData) },
	} {
		b.Run(name, func(b *testing.B) {
			var stream []byte
			s := suites[tls.TLS_AES_256_GCM_SHA384]
			secret := bytes.Repeat([]byte{7}, s.hash().Size())
			out, err := newKeys(s, bytes.Clone(secret))
			if err != nil {
				b.Fatal(err)
			}
			for len(stream) < buffer {
				stream = next(out, stream)
			}
			room := make([]byte, 0, len(stream))
			b.SetBytes(int64(len(stream)))
			for b.Loop() {
				k, err := newKeys(s, bytes.Clone(secret))
				if err != nil {
					b.Fatal(err)
				}
				in := newIncoming(k, false)
				if _, used, err := in.open(room, stream); err != nil || used != len(stream) {
					b.Fatal(used, err)
				}
			}
		})
	}
}
