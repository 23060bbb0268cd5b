// The shop is the example application of meshless: four small roles in one program, chosen by the first argument. It
// speaks plain HTTP and a plain line protocol and knows nothing of TLS: that is the point of the example.
//
//	web     serves the page on :8080 and asks the api
//	api     serves /orders on :8080 and keeps them in the db
//	db      a line protocol on :5432 in which the server speaks first, as MySQL and SMTP do
//	report  asks the api once, prints the answer and ends; the program of a CronJob
//
// Addresses come from the environment: LISTEN (what to bind), API_ADDR and DB_ADDR (host:port of the next role).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		slog.Error("shop ends", "error", err)
		os.Exit(1)
	}
}

// run is the program; it returns when the role is done or ctx ends.
func run(ctx context.Context, args []string, getenv func(string) string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("want one argument: web, api, db or report")
	}
	env := func(name, otherwise string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return otherwise
	}
	switch args[0] {
	case "web":
		return serveHTTP(ctx, env("LISTEN", ":8080"), web("http://"+env("API_ADDR", "api:8080")))
	case "api":
		return serveHTTP(ctx, env("LISTEN", ":8080"), api(client(env("DB_ADDR", "db:5432"))))
	case "db":
		listener, err := net.Listen("tcp", env("LISTEN", ":5432"))
		if err != nil {
			return err
		}
		return new(database).serve(ctx, listener)
	case "report":
		return report(ctx, "http://"+env("API_ADDR", "api:8080"), out)
	}
	return fmt.Errorf("unknown role %q: want web, api, db or report", args[0])
}

// serveHTTP serves until ctx ends, then lets requests in flight finish for up to ten seconds.
func serveHTTP(ctx context.Context, addr string, h http.Handler) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	slog.Info("listening", "address", listener.Addr().String())
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return server.Shutdown(grace)
}

// report prints what the api answers; anything but 200 is an error, so that the Job fails.
func report(ctx context.Context, base string, out io.Writer) error {
	body, err := call(ctx, http.MethodGet, base+"/orders", nil)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	_, err = fmt.Fprintf(out, "orders so far:\n%s", body)
	return err
}

// A connection per request spreads requests over the pods of a Service, new ones included.
var httpClient = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// call makes one request and returns the body of a 200 answer.
func call(ctx context.Context, method, url string, body io.Reader) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return "", err
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, answer)
	}
	return string(answer), nil
}
