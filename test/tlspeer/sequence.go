package tlspeer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"time"
)

// End is how a sequence ends for whoever reads it.
type End struct {
	Orderly bool // by close_notify; otherwise it is cut, or:
	Remote  byte // by an alert of the peer
	Local   byte // by an alert that the peer is sent
}

func (e End) String() string {
	switch {
	case e.Orderly:
		return "close_notify"
	case e.Remote > 0:
		return fmt.Sprintf("alert %d of the peer", e.Remote)
	case e.Local > 0:
		return fmt.Sprintf("alert %d for the peer", e.Local)
	}
	return "no end"
}

// Limits are what may come without data in between: the model's reading of what proxy/record promises.
const (
	Burst         = 16
	Refill        = 100 * time.Millisecond
	BytesPerToken = 1 << 20
)

// Step is what the peer writes at once.
type Step struct {
	Name     string
	Wire     []byte
	Data     []byte        // that must be delivered of it
	Requests bool          // it asks for new keys
	Pause    time.Duration // before it
}

// Options choose what a sequence may hold.
type Options struct {
	ToClient bool // the reader is a client: it may get tickets
	Standard bool // the reader is crypto/tls: it reads tickets, and counts all that is not data together
	Pauses   bool // time passes between the steps; otherwise none is counted on
	Steps    int
}

// Sequence is what a peer writes, and what must come of it.
type Sequence struct {
	Steps []Step
	End   End
	Last  string // what ends it
}

func (s *Sequence) String() string {
	var names bytes.Buffer
	for _, step := range s.Steps {
		fmt.Fprintf(&names, "%s; ", step.Name)
	}
	return fmt.Sprintf("%sthen %s", names.String(), s.End)
}

// Data is all that must be delivered.
func (s *Sequence) Data() (data []byte) {
	for _, step := range s.Steps {
		data = append(data, step.Data...)
	}
	return data
}

// maker makes a sequence.
type maker struct {
	*rand.Rand
	out           *Keys
	o             Options
	idle, updates bucket
	now           time.Duration
	unpaid        int
	useless       int // records and messages since the last data
	s             Sequence
}

// bucket is the model of a budget.
type bucket struct {
	left int
	at   time.Duration
}

func (b *bucket) at0(now time.Duration) int {
	for b.at+Refill <= now {
		b.at += Refill
		b.left = max(b.left, min(b.left+1, Burst))
	}
	return b.left
}

// Random makes the sequence of a seed. Behind its last step the peer's keys are those of the end.
func Random(seed uint64, out *Keys, o Options) *Sequence {
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 8446)), out: out, o: o}
	m.idle.left, m.updates.left = Burst, Burst
	for range m.IntN(o.Steps + 1) {
		if o.Pauses && m.IntN(3) == 0 {
			m.now += time.Duration(m.IntN(400)) * time.Millisecond
			m.good().Pause = m.now - m.spent()
			continue
		}
		m.good()
	}
	m.last()
	return &m.s
}

// spent is the time of the steps so far, but the last.
func (m *maker) spent() (sum time.Duration) {
	for _, step := range m.s.Steps[:len(m.s.Steps)-1] {
		sum += step.Pause
	}
	return sum
}

func (m *maker) add(name string, wire []byte) *Step {
	m.s.Steps = append(m.s.Steps, Step{Name: name, Wire: wire})
	return &m.s.Steps[len(m.s.Steps)-1]
}

// good adds a step that every peer may take.
func (m *maker) good() *Step {
	for {
		if m.useless++; m.o.Standard && m.useless >= Burst {
			return m.data()
		}
		switch m.IntN(7) {
		case 0, 1:
			return m.data()
		case 2:
			if m.idle.at0(m.now) > 0 {
				m.idle.left--
				return m.add("empty", m.out.Record(nil, Data, nil, m.IntN(2)*m.IntN(300)))
			}
		case 3:
			if m.idle.at0(m.now) > 0 {
				m.idle.left--
				return m.add("user_canceled", m.out.Record(nil, Alert, []byte{byte(1 + m.IntN(2)), 90}, m.IntN(2)))
			}
		case 4:
			if step := m.messages(m.IntN(2) == 0, true); step != nil {
				return step
			}
		case 5, 6:
			if step := m.messages(m.tickets() && m.IntN(4) == 0, false); step != nil {
				return step
			}
		}
	}
}

func (m *maker) data() *Step {
	sizes := []int{1, 2, 100, 1400, 4096, 16383, 16384}
	data := make([]byte, sizes[m.IntN(len(sizes))])
	for i := range data {
		data[i] = byte(m.Uint32())
	}
	if m.IntN(4) == 0 {
		clear(data) // as padding looks
	}
	padding := 0
	if m.IntN(2) == 0 {
		padding = m.IntN(16384 - len(data) + 1)
	}
	if m.unpaid += len(data); m.unpaid >= BytesPerToken {
		m.unpaid -= BytesPerToken
		m.updates.left = max(m.updates.left, min(m.updates.left+1, Burst))
	}
	m.idle.left, m.useless = Burst, 0
	step := m.add(fmt.Sprintf("%d bytes padded by %d", len(data), padding), m.out.Record(nil, Data, data, padding))
	step.Data = data
	return step
}

// tickets tells whether the reader takes some that are none.
func (m *maker) tickets() bool { return m.o.ToClient && !m.o.Standard }

// messages adds handshake messages in as many records as it likes: tickets, and a KeyUpdate at the end.
func (m *maker) messages(tickets, ticketsOnly bool) *Step {
	var body []byte
	name := ""
	if tickets && m.tickets() {
		for range 1 + m.IntN(2) {
			n := m.IntN(300)
			body = append(append(body, NewSessionTicket, 0, byte(n>>8), byte(n)), make([]byte, n)...)
			name += fmt.Sprintf("ticket of %d, ", n)
		}
	}
	request := byte(m.IntN(2))
	if !ticketsOnly {
		body = append(body, KeyUpdate, 0, 0, 1, request)
		name += fmt.Sprintf("new keys (%d), ", request)
	}
	if len(body) == 0 {
		return nil
	}
	pieces := split(m.Rand, body, 1+m.IntN(3)*m.IntN(3))
	idle := len(pieces)
	if !ticketsOnly {
		idle--
	}
	if m.idle.at0(m.now) < idle || !ticketsOnly && m.updates.at0(m.now) == 0 {
		return nil
	}
	m.idle.left -= idle
	var wire []byte
	for _, piece := range pieces {
		wire = m.out.Record(wire, Handshake, piece, m.IntN(2)*m.IntN(40))
	}
	if !ticketsOnly {
		m.updates.left--
		m.out.Update()
	}
	step := m.add(fmt.Sprintf("%sin %d records", name, len(pieces)), wire)
	step.Requests = !ticketsOnly && request == 1
	return step
}

// split divides b into at most n pieces that are not empty.
func split(r *rand.Rand, b []byte, n int) (pieces [][]byte) {
	for ; n > 1 && len(b) > 1; n-- {
		at := 1 + r.IntN(len(b)-1)
		pieces, b = append(pieces, b[:at]), b[at:]
	}
	return append(pieces, b)
}
