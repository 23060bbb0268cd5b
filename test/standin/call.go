package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"
)

const (
	retryPause = 500 * time.Millisecond
	maxAnswer  = 64 << 10 // of a body that is printed
)

// answer is the line that call prints per URL.
type answer struct {
	URL      string `json:"url"`
	Status   int    `json:"status,omitempty"`
	Attempts int    `json:"attempts"`
	Millis   int64  `json:"ms"` // of the last attempt
	Body     string `json:"body,omitempty"`
	Error    string `json:"error,omitempty"`
}

// call gets each URL once, in order, and prints a line for each.
func call(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("call", flag.ContinueOnError)
	retries := flags.Int("retries", 3, "how often a failed call is tried again, every half second")
	timeout := flags.Duration("timeout", 3*time.Second, "of one attempt")
	urls, err := targets(flags, args)
	if err != nil {
		return err
	}
	for _, url := range urls {
		got := answer{URL: url}
		for got.Attempts <= *retries {
			if got.Attempts > 0 {
				time.Sleep(retryPause)
			}
			got.try(ctx, *timeout)
			if got.Error == "" || ctx.Err() != nil {
				break
			}
		}
		if got.Error != "" {
			err = errFailed
		}
		if failed := printJSON(out, got); failed != nil {
			return failed
		}
	}
	return err
}

// try gets the URL on a connection of its own.
func (a *answer) try(ctx context.Context, timeout time.Duration) {
	started := time.Now()
	a.Attempts++
	status, body, err := request(ctx, oneShot, timeout, a.URL, "")
	a.Status, a.Body, a.Error, a.Millis = status, body, "", time.Since(started).Milliseconds()
	if err != nil {
		a.Error = err.Error()
	}
}

// Two clients: one opens a connection per request, one keeps its connections.
var (
	oneShot = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	keeping = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, DisableCompression: true}}
)

// request gets the URL, or posts the marker where there is one. Any status but 200 is an error.
func request(ctx context.Context, client *http.Client, timeout time.Duration, url, marker string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	method, content := http.MethodGet, io.Reader(nil)
	if marker != "" {
		method, content = http.MethodPost, strings.NewReader(marker)
	}
	r, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
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

// keptRequest is request on a kept connection. That the server closed it just then is no failure of the request in HTTP
// (RFC 9112, section 9.3.1), so it is tried once more, on a connection of its own; reopened says so, for whoever wants
// none of it.
func keptRequest(ctx context.Context, timeout time.Duration, url, marker string) (reopened bool, err error) {
	var kept, answered bool
	trace := &httptrace.ClientTrace{
		GotConn:              func(info httptrace.GotConnInfo) { kept = info.Reused },
		GotFirstResponseByte: func() { answered = true },
	}
	started := time.Now()
	_, _, err = request(httptrace.WithClientTrace(ctx, trace), keeping, timeout, url, marker)
	if err == nil || !kept || answered || time.Since(started) >= timeout {
		return false, err
	}
	if _, _, again := request(ctx, oneShot, timeout, url, marker); again != nil {
		return true, fmt.Errorf("%w (%w), and then: %w", errRunsOut, err, again)
	}
	return true, nil
}
