package record

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

// suite is what a cipher suite of TLS 1.3 means for records (RFC 8446, appendix B.4).
type suite struct {
	hash    func() hash.Hash
	keySize int
	aead    func(key []byte) (cipher.AEAD, error)
}

var suites = map[uint16]suite{
	tls.TLS_AES_128_GCM_SHA256:       {sha256.New, 16, gcm},
	tls.TLS_AES_256_GCM_SHA384:       {sha512.New384, 32, gcm},
	tls.TLS_CHACHA20_POLY1305_SHA256: {sha256.New, chacha20poly1305.KeySize, chacha20poly1305.New},
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Lengths that hold for every suite.
const (
	nonceSize = 12
	tagSize   = 16
)

// keys protect one direction: a traffic secret, what is derived of it, and the number of the next record.
type keys struct {
	suite  suite
	secret []byte
	aead   cipher.AEAD
	iv     [nonceSize]byte
	nonce  [nonceSize]byte // scratch
	number uint64
}

func newKeys(s suite, secret []byte) (*keys, error) {
	k := &keys{suite: s}
	return k, k.install(secret)
}

// install derives key and IV of a traffic secret (RFC 8446, section 7.3).
func (k *keys) install(secret []byte) error {
	key, err := k.expand(secret, "key", k.suite.keySize)
	if err != nil {
		return err
	}
	iv, err := k.expand(secret, "iv", nonceSize)
	if err != nil {
		return err
	}
	if k.aead, err = k.suite.aead(key); err != nil {
		return err
	}
	clear(key)
	k.secret, k.number = secret, 0
	copy(k.iv[:], iv)
	return nil
}

// update goes to the next generation of keys (RFC 8446, section 7.2).
func (k *keys) update() error {
	next, err := k.expand(k.secret, "traffic upd", len(k.secret))
	if err != nil {
		return err
	}
	clear(k.secret)
	return k.install(next)
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446, section 7.1).
func (k *keys) expand(secret []byte, label string, length int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(length))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	out, err := hkdf.Expand(k.suite.hash, secret, string(info), length)
	if err != nil {
		return nil, fmt.Errorf("derive %q: %w", label, err)
	}
	return out, nil
}

// next is the nonce of the next record (RFC 8446, section 5.3). It is valid until the following call.
func (k *keys) next() []byte {
	k.nonce = k.iv
	low := k.nonce[nonceSize-8:]
	binary.BigEndian.PutUint64(low, binary.BigEndian.Uint64(low)^k.number)
	k.number++
	return k.nonce[:]
}
