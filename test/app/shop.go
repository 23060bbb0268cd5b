package main

import (
	"cmp"
	"context"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/meshless-dev/meshless/test/app/client"
)

const (
	// drainTime is how long web's preStop handler holds its answer: until Services have stopped sending new connections
	// here.
	drainTime = 2 * time.Second
	// shopGrace is what requests that run have after SIGTERM.
	shopGrace   = 10 * time.Second
	shopTimeout = 5 * time.Second // of a call between roles
	maxOrder    = 4 << 10         // bytes
)

// shop is one of the roles of examples/shop. They speak plain HTTP and a plain line protocol and know nothing of TLS:
// that is the point of the example.
//
//	web     serves the page on :8080 and asks the api
//	api     serves /orders on :8080 and keeps them in the db
//	db      a line protocol on :5432 in which the server speaks first, as MySQL and SMTP do
//	report  asks the api once, prints the answer and ends; the program of a CronJob
//
// Addresses come from the environment: LISTEN (what to bind), API_ADDR and DB_ADDR (host:port of the next role).
func shop(ctx context.Context, args []string, env map[string]string, out io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes no arguments", args[0])
	}
	apiURL := "http://" + cmp.Or(env["API_ADDR"], "api:8080")
	switch args[0] {
	case "web":
		return serveRole(ctx, env, webHandler(apiURL))
	case "api":
		return serveRole(ctx, env, apiHandler(database(cmp.Or(env["DB_ADDR"], "db:5432"))))
	case "db":
		listener, err := listenRole(env, ":5432")
		if err != nil {
			return err
		}
		return new(store).serve(ctx, listener)
	}
	return report(ctx, apiURL, out)
}

func listenRole(env map[string]string, address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", cmp.Or(env["LISTEN"], address))
	if err == nil {
		slog.Info("listening", "address", listener.Addr().String())
	}
	return listener, err
}

func serveRole(ctx context.Context, env map[string]string, h http.Handler) error {
	listener, err := listenRole(env, ":8080")
	if err != nil {
		return err
	}
	return serveHTTP(ctx, &http.Server{Handler: h}, shopGrace, listener)
}

// report prints what the api answers; anything but 200 is an error, so that the Job fails.
func report(ctx context.Context, base string, out io.Writer) error {
	body, err := ask(ctx, http.MethodGet, base+"/orders", "")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	_, err = fmt.Fprintf(out, "orders so far:\n%s", body)
	return err
}

// ask returns the body of a 200 answer. A connection per request spreads requests over the pods of a Service, new ones
// included.
func ask(ctx context.Context, method, url, body string) (string, error) {
	_, answer, err := client.Send(ctx, shopTimeout, method, url, body)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", method, url, err, answer)
	}
	return answer, nil
}

// webHandler is the page: GET / shows the orders, POST / places one.
func webHandler(apiURL string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		orders, err := ask(r.Context(), http.MethodGet, apiURL+"/orders", "")
		page(w, "<h1>Orders</h1>\n<pre>", orders, err)
	})
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		order, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxOrder))
		answer := ""
		if err == nil {
			answer, err = ask(r.Context(), http.MethodPost, apiURL+"/orders", string(order))
		}
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

// apiHandler keeps orders in the db: GET /orders lists them, POST /orders appends the body, one line.
func apiHandler(db database) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders", func(w http.ResponseWriter, r *http.Request) {
		orders, err := db.list(r.Context())
		reply(w, strings.Join(orders, ""), err)
	})
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxOrder))
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
