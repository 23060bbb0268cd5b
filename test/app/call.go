package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/app/client"
	"github.com/meshless-dev/meshless/test/app/talk"
)

const (
	retryPause = 500 * time.Millisecond
	// datagram is what a udp:// URL is sent.
	datagram = "anybody there?"
)

// call gets each URL once, in order, and prints a line for each.
func call(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("call", flag.ContinueOnError)
	retries := flags.Int("retries", 3, "how often a failed call is tried again, every half second")
	timeout := flags.Duration("timeout", 3*time.Second, "of one attempt")
	quit := flags.Bool("quit", false, "when all have answered, end the proxy of this pod, as a Job does with spec.sidecar.mode: Container")
	urls, err := targets(flags, args, "http://", "udp://", "talk://")
	if err != nil {
		return err
	}
	for _, url := range urls {
		got := client.Answer{URL: url}
		for got.Attempts <= *retries {
			if got.Attempts > 0 {
				time.Sleep(retryPause)
			}
			try(ctx, *timeout, &got)
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
	if err == nil && *quit {
		_, _, err = client.Send(ctx, *timeout, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/quit", api.AdminPort), "")
	}
	return err
}

// try makes one attempt, on a connection of its own.
func try(ctx context.Context, timeout time.Duration, a *client.Answer) {
	started := time.Now()
	a.Attempts++
	var err error
	if address, ok := strings.CutPrefix(a.URL, "udp://"); ok {
		a.Body, err = client.Datagram(ctx, timeout, address, datagram)
	} else if address, ok := strings.CutPrefix(a.URL, "talk://"); ok {
		err = converse(ctx, address)
	} else {
		a.Status, a.Body, err = client.Send(ctx, timeout, http.MethodGet, a.URL, "")
	}
	a.Error, a.Millis = "", time.Since(started).Milliseconds()
	if err != nil {
		a.Error = err.Error()
	}
}

// converse holds the client's half of the conversation of a port (package talk), which has a limit of its own.
func converse(ctx context.Context, address string) error {
	_, number, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = talk.Client(conn.(*net.TCPConn), port)
	return err
}
