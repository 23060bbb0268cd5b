package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

// Times of the end after SIGTERM: 1 s in which new connections are still served, then what is left of 5 s for requests
// that run.
const (
	lameDuck = time.Second
	lastCall = 3500 * time.Millisecond
)

const (
	maxEcho = 16 << 20
	maxSlow = time.Minute
)

func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	var on ports
	flags.Var(&on, "port", "port to listen on; may be repeated (default 8080)")
	flags.Var(&on, "grpc-port", "the same: every port answers the gRPC health protocol")
	delay := flags.Duration("delay", 0, "time before it listens: a slow start")
	if err := nothing(flags, args); err != nil {
		return err
	}
	if len(on) == 0 {
		on = ports{8080}
	}
	select {
	case <-time.After(*delay):
	case <-ctx.Done():
		return nil
	}
	return listen(ctx, on, newApp())
}

// app is what every port serves.
type app struct {
	*http.ServeMux
	host   string
	failed atomic.Bool
	ending atomic.Bool // SIGTERM has come
}

func newApp() *app {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	a := &app{ServeMux: http.NewServeMux(), host: host}
	a.HandleFunc("/", a.index)
	a.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if a.failed.Load() {
			http.Error(w, "told to fail", http.StatusServiceUnavailable)
		}
	})
	a.HandleFunc("/fail", func(http.ResponseWriter, *http.Request) { a.failed.Store(true) })
	a.HandleFunc("/heal", func(http.ResponseWriter, *http.Request) { a.failed.Store(false) })
	a.HandleFunc("/slow", slow)
	a.HandleFunc("/echo", echo)
	a.HandleFunc("POST "+healthCheckPath, a.grpcHealth)
	return a
}

// ServeHTTP ends the client's connection with the first answer after SIGTERM, so that no request is sent to a
// connection that is about to close.
func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.ending.Load() && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	a.ServeMux.ServeHTTP(w, r)
}

func (a *app) index(w http.ResponseWriter, r *http.Request) {
	port := 0
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		port = local.Port
	}
	io.Copy(io.Discard, io.LimitReader(r.Body, maxEcho))
	writeJSON(w, map[string]any{"host": a.host, "port": port, "remote": r.RemoteAddr})
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(value) // fails when the client has gone: nobody is left to tell
}

func slow(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.URL.Query().Get("d"))
	if err != nil || d < 0 || d > maxSlow {
		http.Error(w, "want d=300ms, up to a minute", http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(d):
		fmt.Fprintln(w, d)
	case <-r.Context().Done():
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEcho))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Write(body)
		return
	}
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 0 || n > maxEcho {
		http.Error(w, "want n=1000, up to 16 MiB", http.StatusBadRequest)
		return
	}
	w.Write(bytes.Repeat([]byte("x"), n))
}

// listen serves the handler on all ports until ctx ends, and then ends as the package comment says.
func listen(ctx context.Context, on []int, a *app) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: a, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	failed := make(chan error, len(on))
	for _, port := range on {
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			server.Close()
			return err
		}
		go func() { failed <- server.Serve(listener) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	a.ending.Store(true)
	time.Sleep(lameDuck)
	last, cancel := context.WithTimeout(context.Background(), lastCall)
	defer cancel()
	if err := server.Shutdown(last); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
