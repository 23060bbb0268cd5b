package main

import (
	"html"
	"io"
	"net/http"
	"strings"
	"time"
)

// drainTime is how long web's preStop handler holds its answer: until Services have stopped sending new connections
// here.
const drainTime = 2 * time.Second

// web is the page: GET / shows the orders, POST / places one.
func web(apiURL string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		orders, err := call(r.Context(), http.MethodGet, apiURL+"/orders", nil)
		page(w, "<h1>Orders</h1>\n<pre>", orders, err)
	})
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		answer, err := call(r.Context(), http.MethodPost, apiURL+"/orders", http.MaxBytesReader(w, r.Body, 1<<12))
		page(w, "<h1>Thank you</h1>\n<pre>", answer, err)
	})
	mux.HandleFunc("GET /drain", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(drainTime):
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("GET /healthz", healthy)
	return mux
}

func page(w http.ResponseWriter, title, text string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	io.WriteString(w, "<!doctype html>\n"+title+html.EscapeString(text)+"</pre>\n")
}

// api keeps orders in the db: GET /orders lists them, POST /orders appends the body, one line.
func api(db client) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders", func(w http.ResponseWriter, r *http.Request) {
		orders, err := db.list(r.Context())
		reply(w, strings.Join(orders, ""), err)
	})
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<12))
		order := strings.TrimSpace(string(body))
		if err != nil || order == "" || strings.ContainsAny(order, "\r\n") {
			http.Error(w, "want one line of text, up to 4096 bytes", http.StatusBadRequest)
			return
		}
		answer, err := db.put(r.Context(), order)
		reply(w, answer, err)
	})
	mux.HandleFunc("GET /healthz", healthy)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		_, err := db.list(r.Context())
		reply(w, "ok\n", err)
	})
	return mux
}

func healthy(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") }

func reply(w http.ResponseWriter, text string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, text)
}
