package talk

import (
	"fmt"
	"io"
	"net"
	"time"
)

// half is one side of a conversation. It returns once all is as it should be, having closed its side, or with what is
// not.
type half func(*conversation) error

// Client holds the client's half of the port's conversation and closes the connection. It returns how many bytes came,
// and nil if every one and the end were as they should be.
func Client(conn *net.TCPConn, port int) (received int64, err error) {
	return hold(conn, port, [...]half{
		clientGreeted, clientAsks, clientCloses, clientOutlives, clientIdles, bothWays("client", "server"), clientTaps, clientAborts, clientAborted,
		clientTears, clientTorn,
	})
}

// Server holds the server's half.
func Server(conn *net.TCPConn, port int) (received int64, err error) {
	return hold(conn, port, [...]half{
		serverGreets, serverAnswers, serverAwaitsEnd, serverCloses, serverIdles, bothWays("server", "client"), serverTaps, serverAborted, serverAborts,
		serverTorn, serverTears,
	})
}

func hold(conn *net.TCPConn, port int, halves [11]half) (int64, error) {
	defer conn.Close()
	p, ok := Of(port)
	if !ok {
		return 0, fmt.Errorf("port %d has no conversation", port)
	}
	c := &conversation{TCPConn: conn, mark: Mark(port)}
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return 0, err
	}
	err := halves[p](c)
	return c.received, err
}

// inOrder takes steps until one fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *conversation) saying(word string) func() error  { return func() error { return c.say(word) } }
func (c *conversation) hearing(word string) func() error { return func() error { return c.hear(word) } }

func clientGreeted(c *conversation) error {
	return inOrder(c.hearing("220"), c.saying("HELO"), c.hearing("250"), c.Close)
}

func serverGreets(c *conversation) error {
	return inOrder(c.saying("220"), c.hearing("HELO"), c.saying("250"), c.end)
}

func clientAsks(c *conversation) error { return inOrder(c.saying("GET"), c.hearing("200"), c.end) }

func serverAnswers(c *conversation) error {
	return inOrder(c.hearing("GET"), c.saying("200"), c.Close)
}

func clientCloses(c *conversation) error {
	return inOrder(c.saying("PUT"), c.sending("client"), c.CloseWrite, c.hearing("200"), c.receiving("server"), c.end)
}

func serverAwaitsEnd(c *conversation) error {
	return inOrder(c.hearing("PUT"), c.receiving("client"), c.end, c.saying("200"), c.sending("server"), c.Close)
}

func clientOutlives(c *conversation) error {
	return inOrder(c.saying("GET"), c.receiving("server"), c.end, c.sending("client"), c.saying("DONE"), c.Close)
}

func serverCloses(c *conversation) error {
	return inOrder(c.hearing("GET"), c.sending("server"), c.CloseWrite, c.receiving("client"), c.hearing("DONE"), c.end)
}

func (c *conversation) sending(from string) func() error {
	return func() error { return c.send(from, small) }
}

func (c *conversation) receiving(from string) func() error {
	return func() error { return c.receive(from, small) }
}

func clientIdles(c *conversation) error {
	return inOrder(c.saying("WAIT"), c.hearing("100"), c.hearing("200"), c.saying("BYE"), c.end)
}

func serverIdles(c *conversation) error {
	idle := func() error {
		time.Sleep(Idle)
		return nil
	}
	return inOrder(c.hearing("WAIT"), c.saying("100"), idle, c.saying("200"), c.hearing("BYE"), c.Close)
}

// bothWays is either half of a large transfer: neither waits for the other, so that a proxy with too little patience or
// buffer for one direction stops both.
func bothWays(mine, theirs string) half {
	return func(c *conversation) error {
		sent := make(chan error, 1)
		go func() {
			err := c.send(mine, Large)
			if err == nil {
				err = c.CloseWrite()
			}
			sent <- err
		}()
		err := inOrder(func() error { return c.receive(theirs, Large) }, c.end)
		if err != nil {
			_ = c.SetDeadline(time.Now()) // the other direction is not waited for
			<-sent
			return err
		}
		return <-sent
	}
}

// clientTaps sends the mark again and again, byte by byte, and wants each back before the next.
func clientTaps(c *conversation) error {
	for i := range writes {
		letter := []byte{c.mark[i%len(c.mark)]}
		if _, err := c.Write(letter); err != nil {
			return fmt.Errorf("byte %d: %w", i, err)
		}
		back := make([]byte, 2)
		if n, err := c.Read(back); n != 1 || back[0] != letter[0] {
			return fmt.Errorf("byte %d: sent %q, got %q back: %w", i, letter, back[:n], err)
		}
	}
	return inOrder(c.CloseWrite, c.end)
}

func serverTaps(c *conversation) error {
	for i := range writes {
		letter := make([]byte, 1)
		_, err := io.ReadFull(c, letter)
		if err == nil && letter[0] != c.mark[i%len(c.mark)] {
			err = fmt.Errorf("got %q", letter)
		}
		if err == nil {
			_, err = c.Write(letter)
		}
		if err != nil {
			return fmt.Errorf("byte %d: %w", i, err)
		}
	}
	return inOrder(c.end, c.Close)
}

func clientAborts(c *conversation) error {
	return inOrder(c.saying("GET"), c.hearing("200"), c.abort)
}

func serverAborted(c *conversation) error {
	return inOrder(c.hearing("GET"), c.saying("200"), c.aborted)
}

// serverAborts waits until its answer has been read: a reset may overtake data.
func serverAborts(c *conversation) error {
	return inOrder(c.hearing("GET"), c.saying("200"), c.hearing("THANKS"), c.abort)
}

func clientAborted(c *conversation) error {
	return inOrder(c.saying("GET"), c.hearing("200"), c.saying("THANKS"), c.aborted)
}

func clientTears(c *conversation) error {
	return inOrder(c.saying("GET"), c.hearing("200"), c.notReading, c.abort)
}

func serverTorn(c *conversation) error {
	return inOrder(c.hearing("GET"), c.saying("200"), func() error { return c.tornWhileSending("server") })
}

func clientTorn(c *conversation) error {
	return inOrder(c.saying("GET"), c.hearing("200"), func() error { return c.tornWhileSending("client") })
}

func serverTears(c *conversation) error {
	return inOrder(c.hearing("GET"), c.saying("200"), c.notReading, c.abort)
}

// notReading lets what the peer sends get stuck, to the last buffer on the way.
func (c *conversation) notReading() error {
	time.Sleep(stuck + stuck/2)
	return nil
}

func (c *conversation) tornWhileSending(from string) error {
	if torn := c.flood(from); torn {
		return nil
	}
	return c.aborted()
}
