package tlspeer

// Alerts that a reader answers with, or takes for what they say (RFC 8446, section 6).
const (
	unexpectedMessage = 10
	badRecordMAC      = 20
	recordOverflow    = 22
	illegalParameter  = 47
	decodeError       = 50
)

// Flood is how many of one kind the last step sends where it sends too many. It is more than what time gives back
// while they arrive.
const Flood = 400

// last adds the step that ends the sequence.
func (m *maker) last() {
	endings := m.endings()
	e := endings[m.IntN(len(endings))]
	m.add(e.name, e.wire())
	m.s.End, m.s.Last = e.end, e.name
}

type ending struct {
	name string
	end  End
	wire func() []byte
}

func (m *maker) endings() []ending {
	local := func(name string, alert byte, wire func() []byte) ending { return ending{name, End{Local: alert}, wire} }
	one := func(kind byte, content ...byte) func() []byte {
		return func() []byte { return m.out.Record(nil, kind, content, m.IntN(3)) }
	}
	raw := func(b ...byte) func() []byte { return func() []byte { return b } }
	data := func() []byte { return m.out.Record(nil, Data, []byte("data"), 0) }
	flood := func(next func([]byte) []byte) func() []byte {
		return func() (wire []byte) {
			for range Flood {
				wire = next(wire)
			}
			return wire
		}
	}
	endings := []ending{
		{"close_notify, and data behind it", End{Orderly: true}, func() []byte { return append(one(Alert, 1, 0)(), data()...) }},
		{"close_notify", End{Orderly: true}, one(Alert, byte(1+m.IntN(2)), 0)},
		{"close_notify after as many empty records as may be", End{Orderly: true}, func() (wire []byte) {
			for ; m.idle.at0(m.now) > 0 && !m.o.Standard; m.idle.left-- {
				wire = m.out.Record(wire, Data, nil, 0)
			}
			return append(wire, one(Alert, 1, 0)()...)
		}},
		{"handshake_failure as a warning", End{Remote: 40}, one(Alert, 1, 40)},
		{"access_denied", End{Remote: 49}, one(Alert, 2, 49)},
		{"an alert that nobody knows", End{Remote: 200}, one(Alert, 7, 200)},
		local("a bit flipped", badRecordMAC, func() []byte { r := data(); r[5+m.IntN(len(r)-5)] ^= 1 << m.IntN(8); return r }),
		local("another version", badRecordMAC, func() []byte { r := data(); r[2] = 1; return r }),
		local("a record left out", badRecordMAC, func() []byte { data(); return data() }),
		local("two in the wrong order", badRecordMAC, func() []byte { a, b := data(), data(); return append(b, a...) }),
		local("plaintext", unexpectedMessage, raw([]byte("GET / HTTP/1.1\r\n\r\n")...)),
		local("an alert in the clear", unexpectedMessage, raw(Alert, 3, 3, 0, 2, 1, 0)),
		local("a handshake record in the clear", unexpectedMessage, raw(Handshake, 3, 3, 0, 4, 1, 0, 0, 0)),
		local("change_cipher_spec", unexpectedMessage, raw(ChangeCipherSpec, 3, 3, 0, 1, 1)),
		local("a record of 65535", recordOverflow, raw(Data, 3, 3, 0xff, 0xff)),
		local("a record of 16641", recordOverflow, raw(Data, 3, 3, 0x41, 1)),
		local("an empty ciphertext", badRecordMAC, raw(Data, 3, 3, 0, 0)),
		local("a byte too much", recordOverflow, func() []byte { return m.out.Record(nil, Data, make([]byte, 16385), 0) }),
		local("a byte too much by padding", recordOverflow, func() []byte { return m.out.Record(nil, Data, make([]byte, 16384), 1) }),
		local("no type", unexpectedMessage, func() []byte { return m.out.Inner(nil, make([]byte, 1+m.IntN(50))) }),
		local("nothing within a record", unexpectedMessage, func() []byte { return m.out.Inner(nil, nil) }),
		local("type 99", unexpectedMessage, one(99, 'x')),
		local("change_cipher_spec, encrypted", unexpectedMessage, one(ChangeCipherSpec, 1)),
		local("an empty alert", unexpectedMessage, one(Alert)),
		local("an alert of one byte", decodeError, one(Alert, 1)),
		local("an alert of three bytes", decodeError, one(Alert, 1, 0, 0)),
		local("an empty handshake record", unexpectedMessage, one(Handshake)),
		local("a hello", unexpectedMessage, one(Handshake, 1, 0, 0, 0)),
		local("a request for a certificate", unexpectedMessage, one(Handshake, 13, 0, 0, 0)),
		local("Finished", unexpectedMessage, one(Handshake, append([]byte{20, 0, 0, 32}, make([]byte, 32)...)...)),
		local("new keys without a word", decodeError, one(Handshake, KeyUpdate, 0, 0, 0)),
		local("new keys with two words", decodeError, one(Handshake, KeyUpdate, 0, 0, 2, 0, 0)),
		local("new keys of 2^24-1 words", decodeError, one(Handshake, KeyUpdate, 255, 255, 255)),
		local("new keys with data behind", unexpectedMessage, one(Handshake, KeyUpdate, 0, 0, 1, 0, KeyUpdate)),
		local("data within a message", unexpectedMessage, func() []byte { return append(one(Handshake, KeyUpdate, 0)(), data()...) }),
		local("an empty record within a message", unexpectedMessage, func() []byte { return append(one(Handshake, KeyUpdate)(), one(Data)()...) }),
		local("close_notify within a message", unexpectedMessage, func() []byte { return append(one(Handshake, KeyUpdate, 0, 0)(), one(Alert, 1, 0)()...) }),
		local("too many empty records", unexpectedMessage, flood(func(w []byte) []byte { return m.out.Record(w, Data, nil, 0) })),
		local("too many user_canceled", unexpectedMessage, flood(func(w []byte) []byte { return m.out.Record(w, Alert, []byte{1, 90}, 0) })),
	}
	if m.idle.at0(m.now) > 0 && m.updates.at0(m.now) > 0 {
		word := byte(2 + m.IntN(254))
		endings = append(endings, local("new keys with another word", illegalParameter, one(Handshake, KeyUpdate, 0, 0, 1, word)),
			local("old keys behind new ones", badRecordMAC, func() []byte { return append(one(Handshake, KeyUpdate, 0, 0, 1, 0)(), data()...) }))
	}
	endings = append(endings, local("too many new keys", unexpectedMessage, flood(func(w []byte) []byte { return m.out.NewKeys(w, byte(m.IntN(2))) })))
	if m.tickets() {
		return append(endings,
			local("a ticket of 2^24-1", decodeError, one(Handshake, NewSessionTicket, 255, 255, 255)),
			local("too many tickets", unexpectedMessage, flood(func(w []byte) []byte { return m.out.Record(w, Handshake, []byte{NewSessionTicket, 0, 0, 1, 0}, 0) })))
	}
	if m.o.ToClient {
		return endings
	}
	return append(endings, local("a ticket for a server", unexpectedMessage, one(Handshake, NewSessionTicket, 0, 0, 0)))
}
