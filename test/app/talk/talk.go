// Package talk is an application in eleven variants: the ways in which programs use a TCP connection that a proxy
// between them can get wrong. Each variant is a conversation with a client's and a server's half; each half checks
// every byte that it gets, and how the connection ends. The port says which conversation is held (see Of). So both ends
// know it without a word, as real protocols do, and each conversation has a mark of its own, made from the port, that
// travels both ways and can be looked for on a wire.
//
// It needs nothing of meshless and knows nothing of it.
package talk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

// Pattern is one way to use a connection.
type Pattern int

// The patterns.
const (
	ServerFirst     Pattern = iota // the server greets, as MySQL and SMTP do
	ClientFirst                    // a request, an answer; the server closes
	ClientHalfClose                // the server answers only when the client has closed its half
	ServerHalfClose                // the client goes on when the server has closed its half
	LongIdle                       // nothing for longer than any handshake may take, then data both ways
	LargeTransfer                  // 16 MiB both ways at once
	TinyWrites                     // 200 single bytes each way
	ClientAbort                    // the client resets: that is no orderly end
	ServerAbort                    // the server resets: that is no orderly end
	ClientTears                    // the client resets while what the server sends is stuck, since it does not read
	ServerTears                    // the server does
)

// Patterns are all of them.
var Patterns = []Pattern{ServerFirst, ClientFirst, ClientHalfClose, ServerHalfClose, LongIdle, LargeTransfer, TinyWrites, ClientAbort, ServerAbort, ClientTears,
	ServerTears}

// String is the pattern's name in tests.
func (p Pattern) String() string {
	return [...]string{"server first", "client first", "client half-close", "server half-close", "long idle", "large transfer", "tiny writes",
		"client abort", "server abort", "client tears", "server tears"}[p]
}

// Ports is how many ports there are of which each has another pattern, or none.
const Ports = 20

// Of is the pattern of a port.
func Of(port int) (Pattern, bool) {
	p := Pattern(port % Ports)
	return p, int(p) < len(Patterns)
}

// MarkPrefix begins each mark; MarkRest is how many bytes follow.
const (
	MarkPrefix = "meshless-talk-"
	MarkRest   = 5
)

// Mark is what is said at a port, both ways.
func Mark(port int) string { return fmt.Sprintf("%s%0*d", MarkPrefix, MarkRest, port) }

// Sizes and times.
const (
	Large  = 16 << 20
	small  = 64 << 10
	writes = 200
	// the proxy's limits for handshake and connecting are 5 s: none must outlive what it is for
	Idle  = 6 * time.Second
	limit = time.Minute            // of one conversation
	stuck = 300 * time.Millisecond // how long a sender that is not read fills the buffers on the way
)

// ErrNoReset is an orderly end where the peer has reset.
var ErrNoReset = errors.New("the peer has reset the connection, and here it ends in order")

// conversation is one half of one connection.
type conversation struct {
	*net.TCPConn
	mark     string
	received int64
}

func (c *conversation) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.received += int64(n)
	return n, err
}

// say writes a line: a word, and the mark.
func (c *conversation) say(word string) error {
	_, err := io.WriteString(c, word+" "+c.mark+"\n")
	return wrap("say "+word, err)
}

// hear wants that line. It reads no byte beyond it.
func (c *conversation) hear(word string) error {
	want := word + " " + c.mark + "\n"
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err == nil && string(got) != want {
		err = fmt.Errorf("got %q, want %q", got, want)
	}
	if n > 0 && err != nil {
		err = fmt.Errorf("after %q: %w", got[:n], err)
	}
	return wrap("hear "+word, err)
}

// end wants the orderly end, and nothing before it.
func (c *conversation) end() error {
	n, err := c.Read(make([]byte, 1))
	switch {
	case n > 0:
		return errors.New("wait for the end: there is more data")
	case errors.Is(err, io.EOF):
		return nil
	}
	return wrap("wait for the end", err)
}

// aborted wants anything but an orderly end, soon.
func (c *conversation) aborted() error {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err := io.Copy(io.Discard, c)
	var netErr net.Error
	switch {
	case err == nil:
		return ErrNoReset
	case errors.As(err, &netErr) && netErr.Timeout():
		return fmt.Errorf("the peer has reset the connection, and here it stays open: %w", err)
	}
	return nil
}

// flood sends until nothing more fits, or the peer has reset. Nothing reads beside it: of the two, only one would learn
// of a reset, and the other would find an orderly end (Linux hands an error of a socket out once).
func (c *conversation) flood(from string) (torn bool) {
	_ = c.SetWriteDeadline(time.Now().Add(stuck))
	err := c.send(from, 2*Large)
	var netErr net.Error
	return err != nil && !(errors.As(err, &netErr) && netErr.Timeout())
}

// abort resets the connection.
func (c *conversation) abort() error {
	return wrap("reset", errors.Join(c.SetLinger(0), c.Close()))
}

// send writes the bulk of a direction.
func (c *conversation) send(from string, size int64) error {
	_, err := io.Copy(struct{ io.Writer }{c}, io.LimitReader(newBulk(c.mark, from), size))
	return wrap("send", err)
}

// receive wants the bulk of a direction, byte for byte.
func (c *conversation) receive(from string, size int64) error {
	want := newBulk(c.mark, from)
	got, expected := make([]byte, 32<<10), make([]byte, 32<<10)
	for left := size; left > 0; {
		n, err := c.Read(got[:min(left, int64(len(got)))])
		_, _ = io.ReadFull(want, expected[:n])
		if !bytes.Equal(got[:n], expected[:n]) {
			return fmt.Errorf("receive: other bytes than were sent, between %d and %d", size-left, size-left+int64(n))
		}
		if left -= int64(n); left > 0 && err != nil {
			return fmt.Errorf("receive: %d of %d bytes are missing: %w", left, size, err)
		}
	}
	return nil
}

// bulk is an endless stream of blocks, each the mark and then bytes of a generator seeded by the mark and the
// direction.
type bulk struct {
	mark   string
	random *rand.ChaCha8
	block  []byte
}

func newBulk(mark, from string) *bulk {
	var seed [32]byte
	copy(seed[:], from+strings.TrimPrefix(mark, MarkPrefix))
	return &bulk{mark: mark, random: rand.NewChaCha8(seed)}
}

// Read implements io.Reader; it never fails.
func (b *bulk) Read(p []byte) (int, error) {
	if len(b.block) == 0 {
		b.block = make([]byte, 32<<10)
		_, _ = b.random.Read(b.block[copy(b.block, b.mark):])
	}
	n := copy(p, b.block)
	b.block = b.block[n:]
	return n, nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
