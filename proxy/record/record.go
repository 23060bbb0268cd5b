// Package record is the record layer of TLS 1.3: it protects application data once crypto/tls has done the handshake
// (RFC 8446, section 5). It exists for what tls.Conn cannot do: many records in one system call, and a connection that
// holds no buffer while nothing moves. It does no input or output, and no authentication: the handshake has done that,
// and without a handshake there are no keys.
package record

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// Sizes of records (RFC 8446, section 5.2).
const (
	headerSize   = 5
	MaxPlaintext = 16 << 10
	// MaxRecord is the longest record that a peer may send: it may pad, and add 256 bytes to a plaintext.
	MaxRecord = headerSize + MaxPlaintext + 256
	// overhead is what sealing adds to a plaintext: header, content type, tag.
	overhead = headerSize + 1 + tagSize
)

// Content types and handshake types that come after the handshake (RFC 8446, sections 5.1 and 4).
const (
	typeAlert           = 21
	typeHandshake       = 22
	typeApplicationData = 23

	newSessionTicket = 4
	keyUpdate        = 24
)

// Alerts (RFC 8446, section 6).
const (
	closeNotify       tls.AlertError = 0
	unexpectedMessage tls.AlertError = 10
	badRecordMAC      tls.AlertError = 20
	recordOverflow    tls.AlertError = 22
	illegalParameter  tls.AlertError = 47
	decodeError       tls.AlertError = 50
	internalError     tls.AlertError = 80
	userCanceled      tls.AlertError = 90
)

// maxRecords is how many records one key protects. AES-GCM is safe for 2^24.5 full ones (RFC 8446, section 5.5).
const maxRecords = 1 << 23

// Conn is the record layer of one connection: Open is for what arrives, Seal for what leaves. One goroutine at a time
// may use it.
type Conn struct {
	in      incoming
	out     *keys
	renewAt uint64 // record number at which out takes new keys: maxRecords, but in tests
	owed    bool   // the peer wants our direction to have new keys, too
	ended   bool   // close_notify or a fatal alert was sealed
}

// New takes over a connection whose handshake is done, and of which nothing behind the handshake was read or written by
// crypto/tls. It is an error if the handshake was not of TLS 1.3, or if secrets did not serve it.
func New(state tls.ConnectionState, isClient bool, secrets *Secrets) (*Conn, error) {
	s, ok := suites[state.CipherSuite]
	if !ok || !state.HandshakeComplete || state.Version != tls.VersionTLS13 {
		return nil, fmt.Errorf("records of cipher suite %s are not known", tls.CipherSuiteName(state.CipherSuite))
	}
	read, write := secrets.client, secrets.server
	if isClient {
		read, write = write, read
	}
	if len(read) != s.hash().Size() || len(write) != len(read) {
		return nil, errors.New("the handshake told no traffic secrets")
	}
	in, err := newKeys(s, read)
	if err != nil {
		return nil, err
	}
	out, err := newKeys(s, write)
	if err != nil {
		return nil, err
	}
	secrets.client, secrets.server = nil, nil
	return &Conn{in: newIncoming(in, isClient), out: out, renewAt: maxRecords}, nil
}

// Open decrypts the whole records at the beginning of in, and appends their application data to out. Used is how many
// bytes of in it took; the rest is the beginning of a record. A capacity of len(in) is enough for out, and the two must
// not overlap.
//
// The error is io.EOF for close_notify, and a *net.OpError otherwise: "remote error" for an alert of the peer, "local
// error" for anything that is not a valid record. Alert makes of the latter what the peer is told. Data that came
// before the error is returned. After an error nothing more may be opened.
func (c *Conn) Open(out, in []byte) (data []byte, used int, err error) {
	data, used, err = c.in.open(out, in)
	if c.in.updateWanted {
		c.in.updateWanted, c.owed = false, true
	}
	var local localError
	if errors.As(err, &local) {
		err = &net.OpError{Op: "local error", Net: "tcp", Err: tls.AlertError(local)}
	}
	return data, used, err
}

// SealedLen is how many bytes Seal appends at most for n bytes of plaintext.
func SealedLen(n int) int { return n + (n/MaxPlaintext+1)*overhead + keyUpdateSize }

// keyUpdateSize is that of the record which announces new keys.
const keyUpdateSize = overhead + messageHeader + 1

// Seal appends plaintext to out, in as few records as possible. With the capacity of SealedLen out does not grow. The
// two must not overlap. Seal writes to the byte behind the end of plaintext, if the capacity has one, and restores it;
// otherwise it copies plaintext. After CloseNotify and Alert it returns net.ErrClosed.
func (c *Conn) Seal(out, plaintext []byte) ([]byte, error) {
	if c.ended {
		return nil, net.ErrClosed
	}
	for len(plaintext) > 0 {
		if c.out.number >= c.renewAt || c.owed {
			var err error
			if out, err = c.appendKeyUpdate(out); err != nil {
				return nil, err
			}
		}
		n := min(len(plaintext), MaxPlaintext)
		c.in.updates.earn(1, maxUnanswered)
		out = c.out.seal(out, plaintext[:n], typeApplicationData)
		plaintext = plaintext[n:]
	}
	return out, nil
}

// appendKeyUpdate tells the peer that new keys follow, and takes them. Each direction is renewed on its own, so nothing
// is asked of the peer.
func (c *Conn) appendKeyUpdate(out []byte) ([]byte, error) {
	c.owed = false
	out = c.out.seal(out, []byte{keyUpdate, 0, 0, 1, 0}, typeHandshake)
	if err := c.out.update(); err != nil {
		return nil, err
	}
	return out, nil
}

// CloseNotify appends the alert that ends our direction; the other direction stays open. The second time it appends
// nothing.
func (c *Conn) CloseNotify(out []byte) []byte {
	const warning = 1
	return c.appendAlert(out, warning, closeNotify)
}

// Alert appends the alert that tells the peer why Open has failed. If that was not the peer's fault it appends nothing.
func (c *Conn) Alert(out []byte, err error) []byte {
	const fatal = 2
	var local *net.OpError
	var alert tls.AlertError
	if !errors.As(err, &local) || local.Op != "local error" || !errors.As(local.Err, &alert) {
		return out
	}
	return c.appendAlert(out, fatal, alert)
}

func (c *Conn) appendAlert(out []byte, level byte, a tls.AlertError) []byte {
	if c.ended {
		return out
	}
	c.ended = true
	return c.out.seal(out, []byte{level, byte(a)}, typeAlert)
}

// seal appends one record. The content type has to stand behind the plaintext (RFC 8446, section 5.2). It is written
// there for a moment, so that a large plaintext is sealed record by record without a copy.
func (k *keys) seal(out, plaintext []byte, contentType byte) []byte {
	n := len(plaintext)
	if cap(plaintext) == n {
		plaintext = append(make([]byte, 0, n+1), plaintext...)
	}
	inner := plaintext[:n+1]
	behind := inner[n]
	inner[n] = contentType
	at, size := len(out), n+1+tagSize
	out = append(out, typeApplicationData, 3, 3, byte(size>>8), byte(size))
	out = k.aead.Seal(out, k.next(), inner, out[at:at+headerSize])
	inner[n] = behind
	return out
}

// localError is the alert for something that the peer did wrong.
type localError tls.AlertError

func (e localError) Error() string { return tls.AlertError(e).Error() }
