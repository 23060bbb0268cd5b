// Command odd is what the tests of test/cluster/kinds need and test/standin, which speaks HTTP alone, does not have:
// HTTPS with a certificate that nobody knows, an answer that depends on headers, datagrams, and the end of a Job beside
// a proxy that does not end by itself.
//
//	odd serve           HTTP on 8080, HTTPS on 8443, datagrams sent back on 5353, until SIGTERM
//	odd call URL...     GETs each (udp://HOST:PORT sends a datagram), prints the answers, tries again for a minute
//	odd job URL...      the same, and then ends the proxy of its pod, as spec.sidecar.mode: Container asks of a Job
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
)

// patience bounds one call; call and job try again for a minute, since servers start beside them.
const (
	patience = 3 * time.Second
	attempts = 60
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("want serve, call or job")
	}
	switch command, urls := args[0], args[1:]; command {
	case "serve":
		return serve(ctx)
	case "call":
		return callAll(ctx, urls, out)
	case "job":
		if err := callAll(ctx, urls, out); err != nil {
			return err
		}
		return request(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/quit", api.AdminPort), out)
	default:
		return fmt.Errorf("%q is none of serve, call, job", command)
	}
}

func callAll(ctx context.Context, urls []string, out io.Writer) error {
	if len(urls) == 0 {
		return errors.New("want a URL")
	}
	for _, url := range urls {
		ask := func() error { return request(ctx, http.MethodGet, url, out) }
		if address, ok := strings.CutPrefix(url, "udp://"); ok {
			ask = func() error { return datagram(ctx, address, out) }
		}
		err := ask()
		for n := 1; err != nil && n < attempts && ctx.Err() == nil; n++ {
			time.Sleep(time.Second)
			err = ask()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", url, err)
		}
	}
	return nil
}

func request(ctx context.Context, method, url string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(out, io.LimitReader(response.Body, 1<<16)); err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("answered %s", response.Status)
	}
	return nil
}

func datagram(ctx context.Context, address string, out io.Writer) error {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("anybody there?")); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	answer := make([]byte, 1500)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", answer[:n])
	return err
}
