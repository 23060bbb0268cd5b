package record

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"time"
)

// incoming is the direction that arrives.
type incoming struct {
	*keys
	isClient     bool
	updateWanted bool // the peer has asked for new keys of our direction
	messages     messages

	now     func() time.Duration // of the budgets; read only when one is used
	updates budget               // of KeyUpdates
	idle    budget               // of records that bring neither data nor a KeyUpdate; full again after data
	unpaid  int                  // bytes of data that have not paid for a KeyUpdate yet
}

func newIncoming(k *keys, isClient bool) incoming {
	began := sinceStart()
	return incoming{keys: k, isClient: isClient, now: sinceStart, updates: budget{burst, began}, idle: budget{burst, began}}
}

func (o *incoming) open(out, in []byte) (data []byte, used int, err error) {
	for {
		record, err := first(in[used:])
		if record == nil || err != nil {
			return out, used, err
		}
		used += len(record)
		before := len(out)
		if out, err = o.openOne(out, record); err != nil {
			return out[:before], used, err
		}
	}
}

// first is the record at the beginning of in, with its header; nil if it is not there as a whole yet.
func first(in []byte) ([]byte, error) {
	if foreign(in) {
		return nil, localError(unexpectedMessage)
	}
	if len(in) < headerSize {
		return nil, nil
	}
	size := int(binary.BigEndian.Uint16(in[3:]))
	switch {
	case headerSize+size > MaxRecord:
		return nil, localError(recordOverflow)
	case len(in) < headerSize+size:
		return nil, nil
	}
	return in[:headerSize+size], nil
}

// foreign tells whether in begins with what is no record behind the handshake: there everything is encrypted, and looks
// like application data. The first byte tells: a peer that speaks something else may wait for our answer.
func foreign(in []byte) bool { return len(in) > 0 && in[0] != typeApplicationData }

// Missing is how many bytes part lacks to the end of its first record, or of that record's header. It is 0 if the
// record is whole, or cannot be one.
func Missing(part []byte) int {
	if foreign(part) {
		return 0
	}
	if len(part) < headerSize {
		return headerSize - len(part)
	}
	size := headerSize + int(binary.BigEndian.Uint16(part[3:]))
	if size > MaxRecord || len(part) >= size {
		return 0
	}
	return size - len(part)
}

// openOne decrypts one record and appends what it has for the app.
func (o *incoming) openOne(out, record []byte) ([]byte, error) {
	before := len(out)
	opened, err := o.aead.Open(out, o.next(), record[headerSize:], record[:headerSize])
	if err != nil {
		return out, localError(badRecordMAC)
	}
	inner := opened[before:]
	if len(inner) > MaxPlaintext+1 { // padding counts (RFC 8446, section 5.4)
		return out, localError(recordOverflow)
	}
	end := len(inner) - 1
	for end >= 0 && inner[end] == 0 { // padding
		end--
	}
	if end < 0 {
		return out, localError(unexpectedMessage) // a record without a content type (RFC 8446, section 5.4)
	}
	content := inner[:end]
	if inner[end] != typeHandshake && o.messages.partial() {
		// nothing comes between the records of a handshake message (ibid., section 5.1)
		return out, localError(unexpectedMessage)
	}
	switch inner[end] {
	case typeApplicationData:
		if end > 0 {
			o.paid(end)
			return opened[:before+end], nil
		}
		return out, o.idleRecord()
	case typeHandshake:
		return out, o.handshake(content)
	case typeAlert:
		if err := alertOf(content); err != nil {
			return out, err
		}
		return out, o.idleRecord()
	}
	return out, localError(unexpectedMessage)
}

// paid counts data.
func (o *incoming) paid(n int) {
	o.idle.left = burst
	if o.unpaid += n; o.unpaid >= bytesPerUpdate {
		o.unpaid -= bytesPerUpdate
		o.updates.earn(1, burst)
	}
}

// idleRecord counts a record that brings nothing and ends nothing: an empty one, a ticket, a part of a message. A peer
// may send a few at once, and some each second for ever, as a heartbeat.
func (o *incoming) idleRecord() error {
	if !o.idle.take(o.now()) {
		return localError(unexpectedMessage)
	}
	return nil
}

// alertOf is the error that an alert means. In TLS 1.3 all but two end the connection, at any level (RFC
// 8446, section 6).
func alertOf(content []byte) error {
	switch len(content) {
	case 2:
	case 0: // a record without content (ibid., section 5.4)
		return localError(unexpectedMessage)
	default:
		return localError(decodeError)
	}
	switch a := tls.AlertError(content[1]); a {
	case closeNotify:
		return io.EOF
	case userCanceled:
		return nil // close_notify follows
	default:
		return &net.OpError{Op: "remote error", Net: "tcp", Err: a}
	}
}

// handshake takes in messages that come after the handshake: tickets, which we never use, and new keys.
func (o *incoming) handshake(content []byte) error {
	if len(content) == 0 {
		return localError(unexpectedMessage) // RFC 8446, section 5.1
	}
	for len(content) > 0 {
		kind, body, rest, err := o.messages.next(content)
		if err != nil {
			return err
		}
		content = rest
		switch {
		case kind == newSessionTicket && o.isClient:
		case kind == keyUpdate && body != nil:
			if len(content) > 0 { // what follows would be under two keys at once (ibid., section 5.1)
				return localError(unexpectedMessage)
			}
			return o.update(body[0])
		case kind == keyUpdate: // not whole yet
		default: // among others a request for our certificate, for which we have not offered to be asked
			return localError(unexpectedMessage)
		}
	}
	return o.idleRecord()
}

// update takes the peer's new keys. Several requests for new keys of ours get one answer (RFC 8446, section 4.6.3).
func (o *incoming) update(requested byte) error {
	if !o.updates.take(o.now()) {
		return localError(unexpectedMessage)
	}
	const notRequested, wanted = 0, 1
	switch requested {
	case wanted:
		o.updateWanted = true
	case notRequested:
	default:
		return localError(illegalParameter)
	}
	if o.keys.update() != nil {
		return localError(internalError)
	}
	return nil
}

// messages splits a stream of handshake messages, which records may divide anywhere. It keeps no more of them than it
// needs.
type messages struct {
	head []byte // of the message that is arriving: type and length, and the body of a KeyUpdate
	left int    // bytes of its body that are to be skipped
}

const (
	messageHeader = 4
	maxTicket     = 64 << 10 // of what is skipped; RFC 8446, section 4.6.1, allows little more
)

func (m *messages) partial() bool { return len(m.head) > 0 }

// next takes one message, or what there is of it, off the beginning of content. It returns a body only for a whole
// KeyUpdate.
func (m *messages) next(content []byte) (kind byte, body, rest []byte, err error) {
	for len(m.head) < messageHeader {
		if len(content) == 0 {
			return m.head[0], nil, nil, nil
		}
		m.head, content = append(m.head, content[0]), content[1:]
		if len(m.head) == messageHeader {
			m.left = int(m.head[1])<<16 | int(m.head[2])<<8 | int(m.head[3])
		}
	}
	kind = m.head[0]
	if kind == keyUpdate && m.left > 1 || m.left > maxTicket {
		return 0, nil, nil, localError(decodeError)
	}
	n := min(m.left, len(content))
	taken := content[:n]
	if m.left -= n; m.left == 0 {
		m.head = m.head[:0]
		if kind == keyUpdate {
			if n != 1 {
				return 0, nil, nil, localError(decodeError)
			}
			body = taken
		}
	}
	return kind, body, content[n:], nil
}
