package record

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// twin is a peer with the same keys, which can say what crypto/tls never would.
func twin(t testing.TB, id uint16, isClient bool) (*incoming, *keys) {
	t.Helper()
	s := suites[id]
	secret := bytes.Repeat([]byte{7}, s.hash().Size())
	in, err := newKeys(s, bytes.Clone(secret))
	if err != nil {
		t.Fatal(err)
	}
	out, err := newKeys(s, secret)
	if err != nil {
		t.Fatal(err)
	}
	o := newIncoming(in, isClient)
	o.now = func() time.Duration { return o.idle.at } // time stands still
	return &o, out
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestKeySchedule: key and IV of the server's application data in RFC 8448, section 3.
func TestKeySchedule(t *testing.T) {
	k := &keys{suite: suites[tls.TLS_AES_128_GCM_SHA256]}
	secret := unhex(t, "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
	for label, want := range map[string]string{"key": "9f02283b6c9c07efc26bb9f2ac92e356", "iv": "cf782b88dd83549aadf1e984"} {
		got, err := k.expand(secret, label, len(want)/2)
		if err != nil || hex.EncodeToString(got) != want {
			t.Errorf("%s is %x, %v; want %s", label, got, err, want)
		}
	}
}

// TestSuites: every suite that a peer may choose opens what it seals, over an update of the keys, and in any division
// of the stream.
func TestSuites(t *testing.T) {
	for id := range suites {
		t.Run(tls.CipherSuiteName(id), func(t *testing.T) {
			in, out := twin(t, id, false)
			stream := out.seal(nil, []byte("before"), typeApplicationData)
			stream = out.seal(stream, []byte{keyUpdate, 0, 0, 1, 1}, typeHandshake)
			if err := out.update(); err != nil {
				t.Fatal(err)
			}
			stream = out.seal(stream, []byte(", after"), typeApplicationData)
			var got, pending []byte
			for _, b := range stream {
				pending = append(pending, b)
				data, used, err := in.open(nil, pending)
				if err != nil {
					t.Fatal(err)
				}
				got, pending = append(got, data...), pending[used:]
			}
			if string(got) != "before, after" || !in.updateWanted {
				t.Errorf("got %q, asked for new keys: %t", got, in.updateWanted)
			}
		})
	}
}

// TestAttacks: what a peer, or somebody on the path, must not be able to do.
func TestAttacks(t *testing.T) {
	data := func(k *keys) []byte { return k.seal(nil, []byte("data"), typeApplicationData) }
	message := func(body ...byte) func(*keys) []byte {
		return func(k *keys) []byte { return k.seal(nil, body, typeHandshake) }
	}
	for name, test := range map[string]struct {
		stream func(*keys) []byte
		want   tls.AlertError
		client bool
	}{
		"a bit of the data flipped":       {stream: func(k *keys) []byte { r := data(k); r[headerSize] ^= 1; return r }, want: badRecordMAC},
		"a bit of the tag flipped":        {stream: func(k *keys) []byte { r := data(k); r[len(r)-1] ^= 1; return r }, want: badRecordMAC},
		"the version of the header":       {stream: func(k *keys) []byte { r := data(k); r[2] = 1; return r }, want: badRecordMAC},
		"a record left out":               {stream: func(k *keys) []byte { data(k); return data(k) }, want: badRecordMAC},
		"a record twice":                  {stream: func(k *keys) []byte { r := data(k); return append(r, r...) }, want: badRecordMAC},
		"two records in the wrong order":  {stream: func(k *keys) []byte { a, b := data(k), data(k); return append(b, a...) }, want: badRecordMAC},
		"plaintext":                       {stream: func(*keys) []byte { return []byte("GET / HTTP/1.1\r\n\r\n") }, want: unexpectedMessage},
		"an alert in the clear":           {stream: func(*keys) []byte { return []byte{typeAlert, 3, 3, 0, 2, 1, 0} }, want: unexpectedMessage},
		"a change of the cipher":          {stream: func(*keys) []byte { return []byte{20, 3, 3, 0, 1, 1} }, want: unexpectedMessage},
		"shorter than a tag":              {stream: func(*keys) []byte { return []byte{23, 3, 3, 0, 3, 1, 2, 3} }, want: badRecordMAC},
		"empty":                           {stream: func(*keys) []byte { return []byte{23, 3, 3, 0, 0} }, want: badRecordMAC},
		"longer than any record":          {stream: func(*keys) []byte { return []byte{23, 3, 3, 0x41, 0x01} }, want: recordOverflow},
		"more data than a record may":     {stream: func(k *keys) []byte { return k.seal(nil, make([]byte, MaxPlaintext+1), typeApplicationData) }, want: recordOverflow},
		"padding alone":                   {stream: func(k *keys) []byte { return k.seal(nil, make([]byte, 9), 0) }, want: unexpectedMessage},
		"a content type that is not one":  {stream: func(k *keys) []byte { return k.seal(nil, []byte("x"), 99) }, want: unexpectedMessage},
		"an alert of three bytes":         {stream: func(k *keys) []byte { return k.seal(nil, []byte{1, 0, 0}, typeAlert) }, want: decodeError},
		"two alerts in a record":          {stream: func(k *keys) []byte { return k.seal(nil, []byte{1, 90, 1, 0}, typeAlert) }, want: decodeError},
		"an empty handshake record":       {stream: message(), want: unexpectedMessage},
		"a hello":                         {stream: message(1, 0, 0, 0), want: unexpectedMessage},
		"a request for a certificate":     {stream: message(13, 0, 0, 0), want: unexpectedMessage, client: true},
		"Finished once more":              {stream: message(append([]byte{20, 0, 0, 32}, make([]byte, 32)...)...), want: unexpectedMessage},
		"a ticket for a server":           {stream: message(newSessionTicket, 0, 0, 0), want: unexpectedMessage},
		"a ticket without end":            {stream: message(newSessionTicket, 255, 255, 255), want: decodeError, client: true},
		"new keys, and data behind":       {stream: message(keyUpdate, 0, 0, 1, 0, keyUpdate), want: unexpectedMessage},
		"new keys, asked in another way":  {stream: message(keyUpdate, 0, 0, 1, 2), want: illegalParameter},
		"new keys without a word":         {stream: message(keyUpdate, 0, 0, 0), want: decodeError},
		"new keys with many words":        {stream: message(keyUpdate, 0, 0, 2, 0, 0), want: decodeError},
		"data within a handshake message": {stream: func(k *keys) []byte { return append(message(keyUpdate, 0)(k), data(k)...) }, want: unexpectedMessage},
		"nothing, again and again": {stream: func(k *keys) (s []byte) {
			for range burst + 1 {
				s = k.seal(s, nil, typeApplicationData)
			}
			return s
		}, want: unexpectedMessage},
		"new keys for each byte": {stream: func(k *keys) (s []byte) {
			for range burst + 1 {
				s = k.seal(s, []byte{keyUpdate, 0, 0, 1, 0}, typeHandshake)
				_ = k.update()
				s = k.seal(s, []byte("x"), typeApplicationData)
			}
			return s
		}, want: unexpectedMessage},
		"new keys, again and again": {stream: func(k *keys) (s []byte) {
			for range burst + 1 {
				s = k.seal(s, []byte{keyUpdate, 0, 0, 1, 0}, typeHandshake)
				_ = k.update()
			}
			return s
		}, want: unexpectedMessage},
	} {
		t.Run(name, func(t *testing.T) {
			in, out := twin(t, tls.TLS_AES_128_GCM_SHA256, test.client)
			stream := data(out) // the control: it is delivered, whatever follows
			got, _, err := in.open(nil, append(stream, test.stream(out)...))
			var local localError
			if !errors.As(err, &local) || tls.AlertError(local) != test.want {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if got := strings.TrimRight(string(got), "x"); got != "data" && got != "datadata" {
				t.Errorf("delivered %q", got)
			}
		})
	}
}

// TestTickets: servers such as OpenSSL's send some, in pieces of any size; a client of ours skips them.
func TestTickets(t *testing.T) {
	in, out := twin(t, tls.TLS_AES_128_GCM_SHA256, true)
	ticket := append([]byte{newSessionTicket, 0, 0, 200}, make([]byte, 200)...)
	two := slices.Concat(ticket, ticket)
	var stream []byte
	for _, piece := range [][]byte{two[:2], two[2:100], two[100:205], two[205:]} {
		stream = out.seal(stream, piece, typeHandshake)
	}
	stream = out.seal(stream, []byte("data"), typeApplicationData)
	if got, used, err := in.open(nil, stream); err != nil || string(got) != "data" || used != len(stream) {
		t.Errorf("got %q of %d bytes, %v", got, used, err)
	}
}

func TestPaddingIsTaken(t *testing.T) {
	in, out := twin(t, tls.TLS_AES_128_GCM_SHA256, false)
	padded := append([]byte("data"), typeApplicationData, 0, 0)
	if got, _, err := in.open(nil, out.seal(nil, padded, 0)); err != nil || string(got) != "data" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestEndBeforeData(t *testing.T) {
	in, out := twin(t, tls.TLS_AES_128_GCM_SHA256, false)
	stream := out.seal(nil, []byte{1, byte(closeNotify)}, typeAlert)
	whole := len(stream)
	stream = out.seal(stream, []byte("behind the end"), typeApplicationData)
	if got, used, err := in.open(nil, stream); err != io.EOF || len(got) > 0 || used != whole {
		t.Errorf("got %q of %d bytes, %v", got, used, err)
	}
}

// TestNoncesAreNeverUsedTwice: not over an update, and not when a number has all its bytes.
func TestNoncesAreNeverUsedTwice(t *testing.T) {
	_, out := twin(t, tls.TLS_AES_128_GCM_SHA256, false)
	seen := map[string]bool{}
	for _, number := range []uint64{0, 1, 255, 256, 1 << 32, 1<<64 - 1} {
		out.number = number
		seen[string(out.next())] = true
	}
	if len(seen) != 6 {
		t.Errorf("six numbers gave %d nonces", len(seen))
	}
	iv, aead := out.iv, out.aead
	if err := out.update(); err != nil || out.iv == iv || out.aead == aead || out.number != 0 {
		t.Errorf("an update left something as it was (%v)", err)
	}
}

// TestKeysAreRenewed: long before a key has sealed as much as is safe.
func TestKeysAreRenewed(t *testing.T) {
	in, out := twin(t, tls.TLS_AES_128_GCM_SHA256, false)
	c := &Conn{out: out, renewAt: 3}
	before := bytes.Clone(out.secret)
	var stream []byte
	for range 8 {
		var err error
		if stream, err = c.Seal(stream, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if bytes.Equal(before, out.secret) || out.number > 3 {
		t.Errorf("the keys are still the first, number %d", out.number)
	}
	if got, _, err := in.open(nil, stream); err != nil || string(got) != "xxxxxxxx" {
		t.Errorf("the peer reads %q, %v", got, err)
	}
}

// FuzzOpen: whatever arrives, nothing is delivered that was not sealed, and nothing panics. Inner is what a peer with
// keys may send.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("data"), byte(typeApplicationData), []byte{}, true)
	f.Add([]byte{keyUpdate, 0, 0, 1, 1}, byte(typeHandshake), []byte{23, 3, 3}, false)
	f.Add([]byte{2, 40}, byte(typeAlert), binary.BigEndian.AppendUint32(nil, 1), true)
	f.Fuzz(func(t *testing.T, inner []byte, contentType byte, behind []byte, isClient bool) {
		in, out := twin(t, tls.TLS_AES_128_GCM_SHA256, isClient)
		if len(inner) > MaxPlaintext {
			return
		}
		var got []byte
		stream := append(out.seal(nil, inner, contentType), behind...)
		for range 3 {
			data, used, err := in.open(nil, stream)
			got, stream = append(got, data...), stream[used:]
			if err != nil {
				break
			}
		}
		if len(got) > 0 && (contentType != typeApplicationData && contentType != 0 || !bytes.HasPrefix(inner, got)) {
			t.Errorf("delivered %q of %q, type %d", got, inner, contentType)
		}
	})
}
