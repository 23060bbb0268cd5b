package record

import (
	"bytes"
	"crypto/cipher"
	"crypto/tls"
	"errors"
	"maps"
	"testing"
)

// Tests of what only an exact value, or a failure that no peer can cause, tells apart. Mutants live there otherwise:
// see test/mutation.

// TestBoundsOfRecords: in numbers of RFC 8446, section 5.2, and not in our constants.
func TestBoundsOfRecords(t *testing.T) {
	if r, err := first([]byte{23, 3, 3, 0x41, 0}); r != nil || err != nil {
		t.Errorf("a record of 2^14+256 that is not there yet: %v, %v", r, err)
	}
	for _, test := range []struct {
		part []byte
		want int
	}{
		{nil, 5}, {[]byte{23}, 4}, {[]byte{23, 3, 3, 0}, 1},
		{[]byte{23, 3, 3, 0, 0}, 0}, {[]byte{23, 3, 3, 0, 7}, 7}, {[]byte{23, 3, 3, 0, 7, 1, 2}, 5}, {[]byte{23, 3, 3, 0, 1, 1, 23}, 0},
		{[]byte{23, 3, 3, 1, 0, 1}, 255}, {[]byte{23, 3, 3, 0x41, 0}, 16640}, {[]byte{23, 3, 3, 0x41, 1}, 0},
		{[]byte("G"), 0}, {[]byte("GET /"), 0},
	} {
		if got := Missing(test.part); got != test.want {
			t.Errorf("% x lacks %d bytes, want %d", test.part, got, test.want)
		}
	}
	for n, want := range map[int]int{0: 49, 1: 50, 16383: 16432, 16384: 16455, 65536: 65673} {
		if got := SealedLen(n); got != want {
			t.Errorf("%d bytes need %d, want %d", n, got, want)
		}
	}
}

// TestBoundsOfMessages: lengths of handshake messages, as soon as their header is there.
func TestBoundsOfMessages(t *testing.T) {
	for _, test := range []struct {
		header []byte
		ok     bool
	}{
		{[]byte{newSessionTicket, 1, 0, 0}, true}, {[]byte{newSessionTicket, 1, 0, 1}, false}, {[]byte{newSessionTicket, 0, 255, 255}, true},
		{[]byte{keyUpdate, 0, 0, 1}, true}, {[]byte{keyUpdate, 0, 0, 2}, false}, {[]byte{keyUpdate, 0, 1, 0}, false}, {[]byte{keyUpdate, 1, 0, 0}, false},
	} {
		in, out := twin(t, tls.TLS_AES_128_GCM_SHA256, true)
		_, _, err := in.open(nil, out.seal(nil, test.header, typeHandshake))
		if test.ok && err != nil || !test.ok && !isAlert(err, decodeError) {
			t.Errorf("a message that begins with % x: %v", test.header, err)
		}
	}
}

// TestRenewedInTime: by RFC 8446, section 5.5, and in numbers.
func TestRenewedInTime(t *testing.T) {
	secrets := &Secrets{client: bytes.Repeat([]byte{1}, 32), server: bytes.Repeat([]byte{2}, 32)}
	c, err := New(tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}, false, secrets)
	if err != nil {
		t.Fatal(err)
	}
	c.out.number = 8388607
	one, err := c.Seal(nil, []byte("x"))
	if err != nil || c.out.number != 8388608 {
		t.Fatalf("record 2^23-1 was not sealed with the old keys: %v", err)
	}
	two, err := c.Seal(nil, []byte("x"))
	if err != nil || c.out.number != 1 || len(two) != len(one)+len(one)+4 {
		t.Errorf("record 2^23 is number %d, with %d bytes: %v", c.out.number, len(two), err)
	}
}

// TestSealDoesNotAllocate: where the plaintext has a byte of room behind it, nothing is copied.
func TestSealDoesNotAllocate(t *testing.T) {
	_, out := twin(t, tls.TLS_AES_128_GCM_SHA256, false)
	c := &Conn{out: out, renewAt: maxRecords}
	plain, room := make([]byte, 40_000, 40_001), make([]byte, 0, SealedLen(40_000))
	if n := testing.AllocsPerRun(100, func() { _, _ = c.Seal(room, plain) }); n != 0 {
		t.Errorf("sealing allocates %v times", n)
	}
}

// TestSecretsOfOthers: a label that is not known changes no secret, and an error takes nothing.
func TestSecretsOfOthers(t *testing.T) {
	s := new(Secrets)
	for _, line := range []string{"SERVER_TRAFFIC_SECRET_0 00 22", "CLIENT_TRAFFIC_SECRET_0 00 11", "EXPORTER_SECRET 00 33", "SERVER_TRAFFIC_SECRET_1 00 44", "NEW zz zz"} {
		if n, err := s.Write([]byte(line)); n != len(line) || err != nil {
			t.Errorf("%s: %d, %v", line, n, err)
		}
	}
	for _, line := range []string{"SERVER_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0 00 zz", "CLIENT_TRAFFIC_SECRET_0 00 1"} {
		if n, err := s.Write([]byte(line)); n != 0 || err == nil {
			t.Errorf("%s: %d, %v", line, n, err)
		}
	}
	if !bytes.Equal(s.client, []byte{0x11}) || !bytes.Equal(s.server, []byte{0x22}) {
		t.Errorf("the secrets are %x and %x", s.client, s.server)
	}
}

// TestKeysThatCannotBeMade: the cryptography of Go fails on no key that there is. Where it did, there would be no
// record, and no old key in place of a new one.
func TestKeysThatCannotBeMade(t *testing.T) {
	broken := errors.New("broken")
	failing := func(after int) suite { // once
		s := suites[tls.TLS_AES_128_GCM_SHA256]
		good := s.aead
		s.aead = func(key []byte) (cipher.AEAD, error) {
			if after--; after == -1 {
				return nil, broken
			}
			return good(key)
		}
		return s
	}
	secret := func() []byte { return bytes.Repeat([]byte{7}, 32) }

	k, err := newKeys(failing(1), secret())
	if err != nil {
		t.Fatal(err)
	}
	in := newIncoming(k, false)
	_, out := twin(t, tls.TLS_AES_128_GCM_SHA256, false)
	if _, _, err := in.open(nil, out.seal(nil, []byte{keyUpdate, 0, 0, 1, 0}, typeHandshake)); !isAlert(err, 80) {
		t.Errorf("a KeyUpdate: %v, want internal_error", err)
	}
	if k, err = newKeys(failing(1), secret()); err != nil {
		t.Fatal(err)
	}
	c := &Conn{out: k, renewAt: maxRecords, owed: true}
	if wire, err := c.Seal(nil, []byte("x")); !errors.Is(err, broken) || wire != nil {
		t.Errorf("sealing with new keys: %d bytes, %v", len(wire), err)
	}

	before := maps.Clone(suites)
	defer func() { suites = before }()
	for after := range 2 {
		suites = map[uint16]suite{tls.TLS_AES_128_GCM_SHA256: failing(after)}
		state := tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
		if c, err := New(state, true, &Secrets{client: secret(), server: secret()}); !errors.Is(err, broken) || c != nil {
			t.Errorf("with %d good keys: %v", after, err)
		}
	}

	if _, err := gcm(make([]byte, 5)); err == nil {
		t.Error("AES takes a key of five bytes")
	}
	long := suite{hash: before[tls.TLS_AES_128_GCM_SHA256].hash, keySize: 1 << 20, aead: func([]byte) (cipher.AEAD, error) { return nil, nil }}
	if _, err := newKeys(long, secret()); err == nil {
		t.Error("HKDF gives a key of a MiB")
	}
	if err := (&keys{suite: before[tls.TLS_AES_128_GCM_SHA256], secret: make([]byte, 1<<20)}).update(); err == nil {
		t.Error("HKDF gives a secret of a MiB")
	}
}

// TestKeysAreCleared: the key that a cipher was made of is not left in memory.
func TestKeysAreCleared(t *testing.T) {
	s := suites[tls.TLS_AES_128_GCM_SHA256]
	var taken []byte
	good := s.aead
	s.aead = func(key []byte) (cipher.AEAD, error) { taken = key; return good(key) }
	if _, err := newKeys(s, make([]byte, 32)); err != nil || len(taken) != 16 || !bytes.Equal(taken, make([]byte, 16)) {
		t.Errorf("the key is % x, %v", taken, err)
	}
}
