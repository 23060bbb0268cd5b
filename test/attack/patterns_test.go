package attack

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/meshless-dev/meshless/test/tlspeer"
)

// pattern is what each connection of an attack does. Errors of it end that connection alone: whoever attacks does not
// care.
type pattern struct {
	name string
	// stranger is what it does before any handshake, or instead of one; nil does a member's handshake
	stranger func(c *net.TCPConn) error
	member   func(h *hostile) error // after the handshake; nil holds the connection
	receive  int                    // receive buffer, in bytes; 0 is the system's
	churn    bool                   // each connection ends at once, and another follows
}

// What the app does follows the first byte that it gets.
const (
	echoes = "e"
	floods = "f" // it sends without end
	sinks  = "s" // it reads no more
)

const maxPlaintext = 16 << 10

var patterns = []pattern{
	{name: "idle"},
	{name: "idle, after an exchange", member: func(h *hostile) error {
		if err := h.send(h.record(tlspeer.Data, []byte(echoes+"x"), 0)); err != nil {
			return err
		}
		_, err := io.ReadFull(h.tls, make([]byte, 1))
		return err
	}},
	{name: "a record without its last byte", member: withoutEnd},
	{name: "a record's header and no more", member: func(h *hostile) error { return h.send(h.record(tlspeer.Data, make([]byte, maxPlaintext), 0)[:5]) }},
	{name: "a record in drops", member: func(h *hostile) error {
		record := h.record(tlspeer.Data, make([]byte, maxPlaintext), 0)
		if err := h.send(record[:len(record)-1000]); err != nil {
			return err
		}
		return drops(h.TCPConn, record[len(record)-1000:], 50*time.Millisecond)
	}},
	{name: "answers that are not read", receive: 1, member: asks(floods)},
	{name: "answers that are not read, and a record without its last byte", receive: 1, member: func(h *hostile) error {
		return errors.Join(asks(floods)(h), withoutEnd(h))
	}},
	{name: "answers that are read by the byte", receive: 1, member: func(h *hostile) error {
		if err := asks(floods)(h); err != nil {
			return err
		}
		for one := make([]byte, 1); ; time.Sleep(20 * time.Millisecond) {
			if _, err := h.Read(one); err != nil {
				return err
			}
		}
	}},
	{name: "requests that the app does not read", member: func(h *hostile) error {
		if err := asks(sinks)(h); err != nil {
			return err
		}
		return repeat(h, func() []byte { return h.record(tlspeer.Data, make([]byte, maxPlaintext), 0) })
	}},
	{name: "records of a byte", member: func(h *hostile) error {
		return repeat(h, func() []byte { return h.record(tlspeer.Data, []byte(sinks), 0) })
	}},
	{name: "records of a byte and the longest padding", member: func(h *hostile) error {
		return repeat(h, func() []byte { return h.record(tlspeer.Data, []byte(sinks), maxPlaintext-1) })
	}},
	{name: "empty records", member: func(h *hostile) error {
		return repeat(h, func() []byte { return h.record(tlspeer.Data, nil, 0) })
	}},
	{name: "key updates", member: func(h *hostile) error { return repeat(h, func() []byte { return h.out.NewKeys(nil, 1) }) }},
	{name: "a handshake message without its end", member: func(h *hostile) error {
		return h.send(h.record(tlspeer.Handshake, []byte{tlspeer.KeyUpdate, 0}, 0))
	}},
	{name: "a half-closed connection", member: func(h *hostile) error {
		return errors.Join(asks(floods)(h), h.send(h.record(tlspeer.Alert, []byte{1, 0}, 0)))
	}},
	{name: "a handshake for nothing, again and again", churn: true},
	{name: "a reset behind a request, again and again", churn: true, member: func(h *hostile) error {
		defer h.SetLinger(0)
		return asks(floods)(h)
	}},
	{name: "a connection and no byte", stranger: func(*net.TCPConn) error { return nil }},
	{name: "half a hello", stranger: func(c *net.TCPConn) error {
		_, err := c.Write(append([]byte{22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb}, make([]byte, 8<<10)...))
		return err
	}},
	{name: "a hello in drops", stranger: func(c *net.TCPConn) error {
		return drops(c, append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc}, make([]byte, 512)...), 100*time.Millisecond)
	}},
	{name: "a hello and no certificate", stranger: func(c *net.TCPConn) error {
		return tls.Client(&once{TCPConn: c}, &tls.Config{InsecureSkipVerify: true}).Handshake()
	}},
	{name: "resets, again and again", churn: true, stranger: func(c *net.TCPConn) error { return c.SetLinger(0) }},
}

// withoutEnd is the longest record but for its last byte.
func withoutEnd(h *hostile) error {
	record := h.record(tlspeer.Data, make([]byte, maxPlaintext), 255)
	return h.send(record[:len(record)-1])
}

// asks sends the app one byte.
func asks(what string) func(h *hostile) error {
	return func(h *hostile) error { return h.send(h.record(tlspeer.Data, []byte(what), 0)) }
}

// repeat sends records until the connection ends, or the deadline comes.
func repeat(h *hostile, next func() []byte) error {
	for {
		if err := h.send(next()); err != nil {
			return err
		}
	}
}

// drops sends bytes one by one.
func drops(c *net.TCPConn, text []byte, every time.Duration) error {
	for i := range text {
		if _, err := c.Write(text[i : i+1]); err != nil {
			return err
		}
		time.Sleep(every)
	}
	return nil
}

// once passes the first write on, the hello, and swallows the rest.
type once struct {
	*net.TCPConn
	written bool
}

func (o *once) Write(p []byte) (int, error) {
	if o.written {
		return len(p), nil
	}
	o.written = true
	return o.TCPConn.Write(p)
}

// survivals are the patterns as rows of the table.
func survivals() (rows []Attack) {
	for _, p := range patterns {
		from := Member
		if p.stranger != nil {
			from = Stranger
		}
		rows = append(rows, Attack{"thousands of connections, each with: " + p.name, from,
			"in 64 MiB the proxy lives, others are served, and the memory comes back", "test/attack.TestSurvival"})
	}
	return rows
}
