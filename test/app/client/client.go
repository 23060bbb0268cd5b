// Package client sends requests and datagrams as the test application does: over HTTP on kept connections or on a
// connection per request, in the clear. It needs nothing of meshless and knows nothing of it.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"
)

// MaxBody is how many bytes of an answer are returned; what follows them is read and dropped.
const MaxBody = 1 << 20

// Answer is the line of JSON that `app call` prints per URL.
type Answer struct {
	URL      string `json:"url"`
	Status   int    `json:"status,omitempty"` // of HTTP
	Attempts int    `json:"attempts"`
	Millis   int64  `json:"ms"` // of the last attempt
	Body     string `json:"body,omitempty"`
	Error    string `json:"error,omitempty"` // of the last attempt; empty for status 200
}

// Page is what / of `app serve` answers: which pod it is, and whom it takes the client for.
type Page struct {
	Host   string `json:"host"`
	Port   int    `json:"port"`   // that the server was reached at
	Remote string `json:"remote"` // ADDRESS:PORT of the client
}

// Two clients: one opens a connection per request, one keeps its connections.
var (
	oneShot = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	keeping = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, DisableCompression: true}}
)

// Send sends one request on a connection of its own, and an empty body where body is "". It returns the body of any
// answer; a status but 200 is an error.
func Send(ctx context.Context, timeout time.Duration, method, url, body string) (status int, answer string, err error) {
	return send(ctx, oneShot, timeout, method, url, body)
}

func send(ctx context.Context, client *http.Client, timeout time.Duration, method, url, body string) (status int, answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, MaxBody))
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body) // a connection is kept only if its answer was read to the end
	}
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", response.StatusCode)
	}
	return response.StatusCode, string(text), err
}

// errRunsOut is the end of a connection that was kept, before it brought a byte of an answer.
var errRunsOut = errors.New("a kept connection had ended")

// SendKept is Send on a kept connection. A server may close it just then: that is no failure of the request in HTTP
// (RFC 9112, section 9.3.1), so the request is sent once more, on a connection of its own. reopened says so, for
// whoever wants none of it.
func SendKept(ctx context.Context, timeout time.Duration, method, url, body string) (reopened bool, err error) {
	var kept, answered bool
	trace := &httptrace.ClientTrace{
		GotConn:              func(info httptrace.GotConnInfo) { kept = info.Reused },
		GotFirstResponseByte: func() { answered = true },
	}
	started := time.Now()
	_, _, err = send(httptrace.WithClientTrace(ctx, trace), keeping, timeout, method, url, body)
	if err == nil || !kept || answered || time.Since(started) >= timeout {
		return false, err
	}
	if _, _, again := Send(ctx, timeout, method, url, body); again != nil {
		return true, fmt.Errorf("%w (%w), and then: %w", errRunsOut, err, again)
	}
	return true, nil
}

// Datagram sends one datagram to HOST:PORT and returns the datagram that comes back.
func Datagram(ctx context.Context, timeout time.Duration, address, text string) (answer string, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	buffer := make([]byte, 1500)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}
