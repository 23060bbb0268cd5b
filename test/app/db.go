package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// greeting is what the db says before the client has said anything. A proxy that waits for the client's first bytes
// hangs here.
const greeting = "+ shop db, ready\n"

// idleTime closes connections that say nothing.
const idleTime = time.Minute

// store keeps lines in memory. The protocol: "PUT <text>" answers "+ <number>", "GET" answers "+ <n>" and n lines.
type store struct {
	mu     sync.Mutex
	orders []string
}

// serve accepts until ctx ends, then closes every connection and waits for their goroutines.
func (d *store) serve(ctx context.Context, listener net.Listener) error {
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		conns.Go(func() {
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			defer conn.Close()
			d.converse(conn)
		})
	}
}

func (d *store) converse(conn net.Conn) {
	conn.SetDeadline(time.Now().Add(idleTime))
	fmt.Fprint(conn, greeting)
	for lines := bufio.NewScanner(conn); lines.Scan(); conn.SetDeadline(time.Now().Add(idleTime)) {
		verb, text, _ := strings.Cut(lines.Text(), " ")
		if _, err := fmt.Fprint(conn, d.answer(verb, text)); err != nil {
			return
		}
	}
}

func (d *store) answer(verb, text string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch verb {
	case "PUT":
		d.orders = append(d.orders, text+"\n")
		return fmt.Sprintf("+ %d\n", len(d.orders))
	case "GET":
		return fmt.Sprintf("+ %d\n%s", len(d.orders), strings.Join(d.orders, ""))
	}
	return "- want GET or PUT <text>\n"
}

// database is the address of a store; each call is a connection of its own.
type database string

func (d database) list(ctx context.Context) ([]string, error) {
	var orders []string
	_, err := d.ask(ctx, "GET\n", func(n int, in *bufio.Reader) error {
		for range n {
			line, err := in.ReadString('\n')
			if err != nil {
				return err
			}
			orders = append(orders, line)
		}
		return nil
	})
	return orders, err
}

func (d database) put(ctx context.Context, order string) (string, error) {
	n, err := d.ask(ctx, "PUT "+order+"\n", func(int, *bufio.Reader) error { return nil })
	return fmt.Sprintf("order %d\n", n), err
}

// ask waits for the greeting, sends one command and hands the number of its answer, and what follows it, to rest.
func (d database) ask(ctx context.Context, command string, rest func(n int, in *bufio.Reader) error) (int, error) {
	conn, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", string(d))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	in := bufio.NewReader(conn)
	hello, err := in.ReadString('\n')
	if err != nil || hello != greeting {
		return 0, fmt.Errorf("db %s: want its greeting, got %q: %w", d, hello, err)
	}
	if _, err := fmt.Fprint(conn, command); err != nil {
		return 0, err
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "+ ")))
	if err != nil {
		return 0, fmt.Errorf("db %s: answered %q", d, line)
	}
	return n, rest(n, in)
}
