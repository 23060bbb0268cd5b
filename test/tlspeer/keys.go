package tlspeer

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

// Content types, and the handshake messages that come after the handshake (RFC 8446, appendix B).
const (
	ChangeCipherSpec = 20
	Alert            = 21
	Handshake        = 22
	Data             = 23

	NewSessionTicket = 4
	KeyUpdate        = 24
)

// Keys protect one direction. They are written against RFC 8446, sections 5 and 7, and share nothing with proxy/record.
type Keys struct {
	hash    func() hash.Hash
	keySize int
	chacha  bool
	secret  []byte
	aead    cipher.AEAD
	iv      []byte
	number  uint64
}

// NewKeys are the keys of a traffic secret.
func NewKeys(suite uint16, secret []byte) (*Keys, error) {
	k := &Keys{secret: bytes.Clone(secret), hash: sha256.New, keySize: 16}
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
	case tls.TLS_AES_256_GCM_SHA384:
		k.hash, k.keySize = sha512.New384, 32
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		k.keySize, k.chacha = chacha20poly1305.KeySize, true
	default:
		return nil, fmt.Errorf("cipher suite %#x", suite)
	}
	if len(secret) != k.hash().Size() {
		return nil, fmt.Errorf("a secret of %d bytes for %s", len(secret), tls.CipherSuiteName(suite))
	}
	k.install()
	return k, nil
}

func (k *Keys) expand(label string, n int) []byte {
	label = "tls13 " + label
	info := append(binary.BigEndian.AppendUint16(nil, uint16(n)), byte(len(label)))
	out, err := hkdf.Expand(k.hash, k.secret, string(append(append(info, label...), 0)), n)
	if err != nil {
		panic(err) // of lengths that are constants
	}
	return out
}

func (k *Keys) install() {
	key := k.expand("key", k.keySize)
	var err error
	if k.chacha {
		k.aead, err = chacha20poly1305.New(key)
	} else {
		var block cipher.Block
		if block, err = aes.NewCipher(key); err == nil {
			k.aead, err = cipher.NewGCM(block)
		}
	}
	if err != nil {
		panic(err) // of a size that is a constant
	}
	k.iv, k.number = k.expand("iv", 12), 0
}

// Update goes to the next generation of keys.
func (k *Keys) Update() {
	k.secret = k.expand("traffic upd", len(k.secret))
	k.install()
}

func (k *Keys) nonce() []byte {
	nonce := bytes.Clone(k.iv)
	for i := range 8 {
		nonce[11-i] ^= byte(k.number >> (8 * i))
	}
	k.number++
	return nonce
}

// Inner appends one record with this TLSInnerPlaintext, whatever it is: content, type and padding.
func (k *Keys) Inner(out, inner []byte) []byte {
	n := len(inner) + 16
	header := []byte{Data, 3, 3, byte(n >> 8), byte(n)}
	return k.aead.Seal(append(out, header...), k.nonce(), inner, header)
}

// Record appends one record with padding behind its content.
func (k *Keys) Record(out []byte, kind byte, content []byte, padding int) []byte {
	return k.Inner(out, append(append(bytes.Clone(content), kind), make([]byte, padding)...))
}

// NewKeys appends a KeyUpdate, and takes the keys that follow it.
func (k *Keys) NewKeys(out []byte, request byte) []byte {
	out = k.Record(out, Handshake, []byte{KeyUpdate, 0, 0, 1, request}, 0)
	k.Update()
	return out
}

// Open opens the first record of in; nil is left of in that does not hold a whole one.
func (k *Keys) Open(in []byte) (kind byte, content, rest []byte, err error) {
	if len(in) < 5 || len(in) < 5+int(binary.BigEndian.Uint16(in[3:])) {
		return 0, nil, nil, nil
	}
	n := 5 + int(binary.BigEndian.Uint16(in[3:]))
	inner, err := k.aead.Open(nil, k.nonce(), in[5:n], in[:5])
	if err != nil {
		return 0, nil, nil, fmt.Errorf("record %d of these keys: %w", k.number-1, err)
	}
	inner = bytes.TrimRight(inner, "\x00")
	if len(inner) == 0 {
		return 0, nil, nil, fmt.Errorf("record %d of these keys has no type", k.number-1)
	}
	return inner[len(inner)-1], inner[:len(inner)-1], in[n:], nil
}

// Secrets are those of one handshake, for a KeyLogWriter.
type Secrets struct{ Client, Server []byte }

// Write implements io.Writer.
func (s *Secrets) Write(line []byte) (n int, err error) {
	words := bytes.Fields(line)
	switch string(words[0]) {
	case "CLIENT_TRAFFIC_SECRET_0":
		s.Client, err = hex.DecodeString(string(words[2]))
	case "SERVER_TRAFFIC_SECRET_0":
		s.Server, err = hex.DecodeString(string(words[2]))
	}
	return len(line), err
}

// Lines are the secrets as crypto/tls would log them.
func (s *Secrets) Lines() string {
	return fmt.Sprintf("CLIENT_TRAFFIC_SECRET_0 00 %x\nSERVER_TRAFFIC_SECRET_0 00 %x\n", s.Client, s.Server)
}
