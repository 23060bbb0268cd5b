package talk

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// pair is a connection over loopback.
func pair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); accepted.Close() })
	return conn.(*net.TCPConn), accepted.(*net.TCPConn)
}

// The two halves fit: without anything between them, every conversation is held to its end.
func TestConversations(t *testing.T) {
	for _, p := range Patterns {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			client, server := pair(t)
			ended := make(chan error, 1)
			port := 20000 + int(p)
			go func() {
				n, err := Server(server, port)
				if n == 0 {
					err = errors.Join(err, errors.New("the server got nothing"))
				}
				ended <- err
			}()
			if n, err := Client(client, port); err != nil || n == 0 {
				t.Errorf("client: %d bytes, %v", n, err)
			}
			if err := <-ended; err != nil {
				t.Errorf("server: %v", err)
			}
		})
	}
}

// relay is a bad proxy: it passes bytes on through edit, and the end of one direction by end.
func relay(a, b *net.TCPConn, edit func([]byte) []byte, end func(dst *net.TCPConn, err error)) {
	for _, way := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		go func() {
			buffer := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(buffer)
				if n > 0 {
					if _, err := way[1].Write(edit(buffer[:n])); err != nil {
						return
					}
				}
				if err != nil {
					end(way[1], err)
					return
				}
			}
		}()
	}
}

// What a proxy can get wrong is seen: without this, a conversation that checks nothing would pass as well.
func TestFaultsAreSeen(t *testing.T) {
	same := func(p []byte) []byte { return p }
	halfClose := func(dst *net.TCPConn, _ error) { dst.CloseWrite() }
	for name, fault := range map[string]struct {
		pattern Pattern
		edit    func([]byte) []byte
		end     func(*net.TCPConn, error)
	}{
		"a reset of the client becomes an end":   {ClientAbort, same, halfClose},
		"a reset of the server becomes an end":   {ServerAbort, same, halfClose},
		"a torn download becomes an end":         {ClientTears, same, halfClose},
		"a torn upload becomes an end":           {ServerTears, same, halfClose},
		"the client's half-close closes all":     {ClientHalfClose, same, func(dst *net.TCPConn, _ error) { dst.Close() }},
		"the server's half-close closes all":     {ServerHalfClose, same, func(dst *net.TCPConn, _ error) { dst.Close() }},
		"an end becomes a reset":                 {ClientFirst, same, func(dst *net.TCPConn, _ error) { dst.SetLinger(0); dst.Close() }},
		"a byte of many changes":                 {LargeTransfer, func(p []byte) []byte { p[len(p)-1] ^= 1; return p }, halfClose},
		"the last byte of a read is lost":        {TinyWrites, func(p []byte) []byte { return p[:len(p)-1] }, func(dst *net.TCPConn, _ error) { dst.Close() }},
		"an answer is another conversation's":    {ServerFirst, func(p []byte) []byte { return bytes.ReplaceAll(p, []byte("20000"), []byte("20020")) }, halfClose},
		"what comes after a long wait is closed": {LongIdle, func(p []byte) []byte { return bytes.ReplaceAll(p, []byte("200 "), []byte("500 ")) }, halfClose},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, front := pair(t)
			back, server := pair(t)
			relay(front, back, fault.edit, fault.end)
			ended := make(chan error, 1)
			port := 20000 + int(fault.pattern)
			go func() {
				_, err := Server(server, port)
				ended <- err
			}()
			soon := time.AfterFunc(Idle+2*time.Second, func() { client.Close() }) // a byte that is lost is waited for
			defer soon.Stop()
			_, err := Client(client, port)
			// The relay stays until the server has judged: its end would be a reset, which hides the fault. A server
			// that waits for more than comes is ended with it.
			release := time.AfterFunc(2*time.Second, func() { front.Close(); back.Close() })
			defer release.Stop()
			if serverErr := <-ended; err == nil && serverErr == nil {
				t.Error("neither half has seen it")
			}
		})
	}
}

// The server reports each connection twice, under its port.
func TestServerReports(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	out, in := io.Pipe()
	const port = 20000 + int(ClientFirst)
	go (&server{out: json.NewEncoder(in)}).accept(listener, port)
	for _, fault := range []string{"", "hear GET: "} {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if fault == "" {
				_, _ = Client(conn.(*net.TCPConn), port) // checked above
			}
			conn.Close()
		}()
		var came, ended Report
		reports := json.NewDecoder(out)
		if err := errors.Join(reports.Decode(&came), reports.Decode(&ended)); err != nil {
			t.Fatal(err)
		}
		if came.Ended || came.Port != port || came.Peer != conn.LocalAddr().String() || came.Local != listener.Addr().String() {
			t.Errorf("the first report is %+v", came)
		}
		if !ended.Ended || ended.Port != port || !strings.HasPrefix(ended.Error, fault) || (ended.Error == "") != (fault == "") || (ended.Received > 0) != (fault == "") {
			t.Errorf("the last report is %+v, want error %q", ended, fault)
		}
	}
}
