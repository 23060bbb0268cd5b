package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshless-dev/meshless/test/app/client"
)

const (
	maxEcho = 16 << 20
	maxSlow = time.Minute
)

// handler is what every HTTP port serves:
//
//	/                  200 and a client.Page; so does every path that is not below
//	/healthz           200, and after /fail 503 (gRPC: NOT_SERVING) until /heal
//	/headers           200 if Host is probe.example and X-Probe is yes, else 503
//	/tls               200 over HTTPS, else 503
//	/slow?d=300ms      answers after that time, at most a minute
//	/echo?n=1000       n bytes, at most 16 MiB; of a POST, its body
//	/metrics           of Prometheus: app_requests_total, requests of / and of what is not below
//	/stats, /reset     load: what came of the requests (load.Stats), and from zero
//	/calls             standin: load.Stats by URL
type handler struct {
	*http.ServeMux
	host   string
	failed atomic.Bool
	ending atomic.Bool // SIGTERM has come
	pages  atomic.Int64
}

func newHandler() *handler {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	h := &handler{ServeMux: http.NewServeMux(), host: host}
	h.HandleFunc("/", h.index)
	h.HandleFunc("/fail", func(http.ResponseWriter, *http.Request) { h.failed.Store(true) })
	h.HandleFunc("/heal", func(http.ResponseWriter, *http.Request) { h.failed.Store(false) })
	h.HandleFunc("/slow", slow)
	h.HandleFunc("/echo", echo)
	h.HandleFunc("GET /metrics", h.metrics)
	h.HandleFunc("POST "+healthCheckPath, h.grpcHealth)
	answer := func(path string, yes func(*http.Request) bool) {
		h.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if !yes(r) {
				http.Error(w, path+": no", http.StatusServiceUnavailable)
			}
		})
	}
	answer("/healthz", func(*http.Request) bool { return !h.failed.Load() })
	answer("/headers", func(r *http.Request) bool { return r.Host == "probe.example" && r.Header.Get("X-Probe") == "yes" })
	answer("/tls", func(r *http.Request) bool { return r.TLS != nil })
	return h
}

// ServeHTTP ends the client's connection with the first answer after SIGTERM, so that no request is sent to a
// connection that is about to close.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.ending.Load() && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	h.ServeMux.ServeHTTP(w, r)
}

// metrics is what a Prometheus reads of an app (text format, version 0.0.4).
func (h *handler) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintf(w, "# HELP app_requests_total Pages that were served.\n# TYPE app_requests_total counter\napp_requests_total %d\n", h.pages.Load())
}

func (h *handler) index(w http.ResponseWriter, r *http.Request) {
	h.pages.Add(1)
	page := client.Page{Host: h.host, Remote: r.RemoteAddr}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		page.Port = local.Port
	}
	io.Copy(io.Discard, io.LimitReader(r.Body, maxEcho))
	writeJSON(w, page)
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

// Facts of grpc.health.v1 (github.com/grpc/grpc-proto/grpc/health/v1/health.proto) and of gRPC over HTTP/2
// (github.com/grpc/grpc/doc/PROTOCOL-HTTP2.md). One call does not need a gRPC library.
const (
	healthCheckPath = "/grpc.health.v1.Health/Check"
	fieldStatus     = 1 // HealthCheckResponse.status, enum
	serving         = 1
	notServing      = 2
)

// grpcHealth answers a health check for every service alike.
func (h *handler) grpcHealth(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, io.LimitReader(r.Body, 4<<10))
	status := uint64(serving)
	if h.failed.Load() {
		status = notServing
	}
	message := protowire.AppendVarint(protowire.AppendTag(nil, fieldStatus, protowire.VarintType), status)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
	w.Header().Set("Grpc-Status", "0")
}
