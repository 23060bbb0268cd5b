// Package record protects the application data of a TLS 1.3 connection, once crypto/tls has done the handshake (RFC 8446, section 5). It exists for what
// tls.Conn cannot do: many records in one system call, and a connection that holds no buffer while nothing moves. It authenticates nobody: whoever
// made the handshake has done that, and a connection without one has no keys to come here with.
package record

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
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

// maxRecords is after how many records new keys are taken. AES-GCM is safe for 2^24.5 full ones under one key (RFC 8446, section 5.5).
const maxRecords = 1 << 23

// Conn is the record layer of one connection: Open for what arrives, Write for what leaves. The two directions are independent; each is for one goroutine.
type Conn struct {
	tcp *net.TCPConn
	in  opener

	mu      sync.Mutex // an alert may be sent while Write runs
	out     *keys
	renewAt uint64 // record number at which out takes new keys
	ended   bool   // close_notify or a fatal alert was sent
	// owed tells that the peer wants our direction to have new keys, too.
	owed atomic.Bool
}

// New takes over a connection whose handshake is done, and of which nothing behind the handshake was read or written by crypto/tls. It is an error
// if the handshake was not of TLS 1.3, or if secrets did not serve it.
func New(tcp *net.TCPConn, state tls.ConnectionState, isClient bool, secrets *Secrets) (*Conn, error) {
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
	c := &Conn{tcp: tcp, out: out, renewAt: maxRecords}
	c.in = opener{keys: in, isClient: isClient, updateWanted: func() { c.owed.Store(true) }}
	return c, nil
}

// Open decrypts the whole records at the beginning of in, appends their application data to out, and tells how many bytes of in it has used; the
// rest is the beginning of a record. For out, as much room as in has is enough, and the two must not overlap. The end is io.EOF for
// close_notify, a *net.OpError "remote error" for an alert, and a "local error", of which the peer is told, for anything that is not a valid
// record; data that came before it is returned all the same. After an error nothing more may be opened.
func (c *Conn) Open(out, in []byte) (data []byte, used int, err error) {
	data, used, err = c.in.open(out, in)
	var local localError
	if errors.As(err, &local) {
		c.alert(tls.AlertError(local))
		err = &net.OpError{Op: "local error", Net: "tcp", Err: tls.AlertError(local)}
	}
	return data, used, err
}

// Room is how much Write needs for n bytes of plaintext.
func Room(n int) int { return n + (n/MaxPlaintext+1)*overhead }

// Write sends plaintext in as few records and system calls as can be. It uses scratch for the ciphertext, for which Room tells the capacity. One byte of
// plaintext's capacity behind its end is used and put back; without it plaintext is copied.
func (c *Conn) Write(plaintext, scratch []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return net.ErrClosed
	}
	out, err := c.appendRecords(scratch[:0], plaintext)
	if err != nil {
		return err
	}
	_, err = c.tcp.Write(out)
	return err
}

func (c *Conn) appendRecords(out, plaintext []byte) ([]byte, error) {
	for len(plaintext) > 0 {
		if c.out.number >= c.renewAt || c.owed.Load() {
			var err error
			if out, err = c.appendKeyUpdate(out); err != nil {
				return nil, err
			}
		}
		n := min(len(plaintext), MaxPlaintext)
		out = c.out.seal(out, plaintext[:n], typeApplicationData)
		plaintext = plaintext[n:]
	}
	return out, nil
}

// appendKeyUpdate tells the peer that new keys follow, and takes them. Both halves of the connection are renewed apart, so nothing is asked of the peer.
func (c *Conn) appendKeyUpdate(out []byte) ([]byte, error) {
	c.owed.Store(false)
	out = c.out.seal(out, []byte{keyUpdate, 0, 0, 1, 0}, typeHandshake)
	if err := c.out.update(); err != nil {
		return nil, err
	}
	c.renewAt = maxRecords
	return out, nil
}

// CloseWrite tells the peer that no more data comes (close_notify). The other direction stays open.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendAlert(closeNotify)
}

// Close ends both directions: close_notify, unless it was sent, and the end of the TCP connection.
func (c *Conn) Close() error {
	_ = c.tcp.SetWriteDeadline(time.Now().Add(alertTimeout))
	_ = c.CloseWrite()
	return c.tcp.Close()
}

// alertTimeout bounds the writing of an alert with which a connection ends.
const alertTimeout = time.Second

// alert sends a fatal alert if nothing else is being sent: a peer that takes nothing in would not take it either.
func (c *Conn) alert(a tls.AlertError) {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	_ = c.tcp.SetWriteDeadline(time.Now().Add(alertTimeout))
	_ = c.sendAlert(a)
}

func (c *Conn) sendAlert(a tls.AlertError) error {
	if c.ended {
		return nil
	}
	c.ended = true
	const warning, fatal = 1, 2
	level := byte(fatal)
	if a == closeNotify {
		level = warning
	}
	_, err := c.tcp.Write(c.out.seal(nil, []byte{level, byte(a)}, typeAlert))
	return err
}

// seal appends one record. The content type goes behind the plaintext (RFC 8446, section 5.2), for as long as it is needed: so a large plaintext is sealed
// record by record where it lies.
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
